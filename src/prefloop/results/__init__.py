"""What each stage found, as frozen types. The command line, the report and the Python API read these.

`Outcome` is the base of all. A result goes into a run's `result.json` and into `--json` by `Outcome.figures`, and comes
back by `Outcome.read`, which is tolerant of files that another version of prefloop wrote.
"""

from prefloop.results.base import Breach as Breach
from prefloop.results.base import Collapse as Collapse
from prefloop.results.base import Cut as Cut
from prefloop.results.base import Interval as Interval
from prefloop.results.base import Outcome as Outcome
from prefloop.results.base import Refused as Refused
from prefloop.results.behaviour import BehaviourReport as BehaviourReport
from prefloop.results.behaviour import CheckResult as CheckResult
from prefloop.results.case import CaseFigures as CaseFigures
from prefloop.results.case import CaseFinding as CaseFinding
from prefloop.results.comparing import Compared as Compared
from prefloop.results.comparing import ComparedAnswers as ComparedAnswers
from prefloop.results.comparing import HeadToHead as HeadToHead
from prefloop.results.data import Agreed as Agreed
from prefloop.results.data import BackedUp as BackedUp
from prefloop.results.data import Created as Created
from prefloop.results.data import CrowdRanked as CrowdRanked
from prefloop.results.data import Exported as Exported
from prefloop.results.data import ExportedModel as ExportedModel
from prefloop.results.data import FunctionRanked as FunctionRanked
from prefloop.results.data import Imported as Imported
from prefloop.results.data import ImportedFile as ImportedFile
from prefloop.results.data import LearntModel as LearntModel
from prefloop.results.data import PeopleRanked as PeopleRanked
from prefloop.results.data import Prioritised as Prioritised
from prefloop.results.data import Removed as Removed
from prefloop.results.data import Restored as Restored
from prefloop.results.data import Sampled as Sampled
from prefloop.results.loop import DemoFigures as DemoFigures
from prefloop.results.loop import FrontPoint as FrontPoint
from prefloop.results.loop import Ran as Ran
from prefloop.results.loop import Reported as Reported
from prefloop.results.loop import Traded as Traded
from prefloop.results.status import DataStatus as DataStatus
from prefloop.results.status import ModelStatus as ModelStatus
from prefloop.results.status import PeopleStatus as PeopleStatus
from prefloop.results.status import PersonStatus as PersonStatus
from prefloop.results.status import ProcessStatus as ProcessStatus
from prefloop.results.status import RoundStatus as RoundStatus
from prefloop.results.status import RunFindings as RunFindings
from prefloop.results.status import RunningStatus as RunningStatus
from prefloop.results.status import Status as Status
from prefloop.results.training import Aligned as Aligned
from prefloop.results.training import AlignedOffline as AlignedOffline
from prefloop.results.training import AlignedOnline as AlignedOnline
from prefloop.results.training import AlignRun as AlignRun
from prefloop.results.training import AnnotatorWeights as AnnotatorWeights
from prefloop.results.training import Answer as Answer
from prefloop.results.training import ComparedPart as ComparedPart
from prefloop.results.training import Comparison as Comparison
from prefloop.results.training import Constraint as Constraint
from prefloop.results.training import Evaluated as Evaluated
from prefloop.results.training import EvaluatedReward as EvaluatedReward
from prefloop.results.training import Normalisation as Normalisation
from prefloop.results.training import Rewarded as Rewarded
from prefloop.results.training import RoundStanding as RoundStanding
from prefloop.results.training import SampledPair as SampledPair
from prefloop.results.training import TrainedReward as TrainedReward
from prefloop.results.training import Tuned as Tuned
from prefloop.results.training import ValidationPrompts as ValidationPrompts
from prefloop.results.training import read_aligned as read_aligned
