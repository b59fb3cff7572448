from prefloop import errors as errors
from prefloop.algorithms.registry import register as register
from prefloop.api.models import Policy as Policy
from prefloop.api.models import RewardScorer as RewardScorer
from prefloop.api.models import load_policy as load_policy
from prefloop.api.models import load_reward_model as load_reward_model
from prefloop.api.project import Project as Project
from prefloop.api.rankings import RankedList as RankedList
from prefloop.results import Interval as Interval
from prefloop.types import Prompt as Prompt

__version__: str
