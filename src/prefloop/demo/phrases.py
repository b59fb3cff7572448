"""Holds the words of the demo scenario: customers, products, problems, remedies, and how a human agent would put each.

This file is data only. `{product}` and `{name}` are slots. Clauses start in lower case and carry no full stop, so that
they can be joined; whole sentences are made in `scenario.py`. `quality.py` reads the patterns below to understand an
answer.
"""

from __future__ import annotations

from dataclasses import dataclass

_NAMES = (
    "Anna Ben Carla David Elena Felix Grace Hugo Ida Jonas Karin Leo Maria Nico Olga Paul Rosa Sam Tina Uwe "
    "Vera Walter Yara Zoe Amir Bella Chen Dora Emil Fatima Greta Hassan Irene Jamal Kofi Lena Mona Noah Omar Priya"
)

_GOODS = (
    "kettle toaster lamp desk chair camera tablet laptop printer speaker radio watch jacket coat blender heater "
    "vacuum mixer scooter bike tent mirror clock drill monitor router"
)

NAMES = tuple(_NAMES.split())
GOODS = tuple(_GOODS.split())
SERVICES = ("mobile plan", "internet plan", "music plan", "film plan", "news plan", "sports plan", "travel card")

PRODUCTS = GOODS + SERVICES


@dataclass(frozen=True)
class Action:
    """Describes one next step that the shop can take.

    noun:    how the policy calls it; unique, and none is part of another
    offers:  clauses with which an agent offers it
    pattern: a regular expression over lower-case text that finds such an offer, in other words too
    """

    noun: str
    offers: tuple[str, ...]
    pattern: str


# An answer is searched in this order: what one pattern has claimed, later ones do not see.
ACTIONS = {
    "paid_repair": Action(
        "paid repair",
        ("we can repair it for a fee", "we can offer you a paid repair", "I will book a paid repair for you"),
        r"paid repair|repair (it|your \w+|the \w+) for a (small )?fee",
    ),
    "free_repair": Action(
        "free repair",
        ("we will repair it for free", "we can offer you a free repair", "I will book a free repair for you"),
        r"free repair|repair (it|your \w+|the \w+)",
    ),
    "refund": Action(
        "refund",
        ("we will refund you", "I will refund you the full price", "you will get your money back"),
        r"refund (you|it|the|your)|(a|your|full) refund|money back",
    ),
    "replacement": Action(
        "replacement",
        ("we will replace it", "I will send you a replacement", "you will get a replacement from us"),
        r"replace (it|your|the)|a( free)? replacement",
    ),
    "store_credit": Action(
        "store credit",
        (
            "we can give you store credit",
            "you will get store credit from us",
            "I will add store credit to your account",
        ),
        r"store credit",
    ),
    "exchange": Action(
        "exchange",
        ("we will exchange it", "I will start an exchange for you", "you can exchange it with us"),
        r"exchange (it|your|the)|an exchange|swap (it|your|the)",
    ),
    "new_parcel": Action(
        "new parcel",
        ("we will send you a new parcel", "I will send a new parcel", "a new parcel will go out to you"),
        r"new parcel|send (it|your \w+|the \w+) again",
    ),
    "carrier_trace": Action(
        "carrier trace",
        ("we will trace the parcel", "I will ask the carrier to trace it", "we will start a trace with the carrier"),
        r"\btrace\b|\btracing\b",
    ),
    "reset_link": Action(
        "reset link",
        ("we will send you a reset link", "I will mail you a reset link", "you will get a reset link from us"),
        r"reset link",
    ),
    "identity_check": Action(
        "identity check",
        (
            "we need an identity check first",
            "I will start an identity check",
            "you will have to pass an identity check",
        ),
        r"identity check|(check|confirm|prove) your identity",
    ),
    "month_end": Action(
        "cancellation at month end",
        ("we will close it at month end", "your plan will stop at month end", "I will end your plan at month end"),
        r"(at|by) (the )?(month end|end of the month)",
    ),
    "instant": Action(
        "instant cancellation",
        ("we will close it right away", "your plan will stop right away", "I will end your plan right away"),
        r"(close|cancel|stop|end)( \w+){0,3} (right away|at once|immediately)|instant cancellation",
    ),
}


@dataclass(frozen=True)
class Kind:
    """Describes one kind of problem.

    asks:     what customers write; `{n}` is the number that the policy's limit is compared with
    clauses:  the problem in an agent's words, with the product; `bare`: without it
    pattern:  finds the problem in lower-case text; the kinds' patterns do not overlap
    limits, numbers:  what the policy's limit and the customer's number can be. They are few, and only one or two
    numbers
              lie between the limits: a small model can learn most cases from the number alone, the rest from both.
    rules:    (step up to the limit, step beyond it); the policy line of a prompt states one of them
    """

    asks: tuple[str, ...]
    clauses: tuple[str, ...]
    bare: tuple[str, ...]
    pattern: str
    rules: tuple[tuple[str, str], ...]
    unit: str = "days"
    limits: tuple[int, ...] = (14, 30)
    numbers: tuple[int, ...] = (2, 4, 6, 9, 20, 40, 50, 60, 90)
    products: tuple[str, ...] = GOODS


KINDS = {
    "late": Kind(
        ("my {product} is {n} days late", "I still wait for my {product} and it is {n} days late"),
        ("your {product} is late", "your {product} is delayed", "the delivery of your {product} is late"),
        ("your order is late", "the delivery is delayed"),
        r"\b(late|delay(ed)?|overdue)\b",
        (("carrier_trace", "new_parcel"), ("carrier_trace", "refund")),
        limits=(5, 10),
        numbers=(2, 3, 4, 7, 8, 12, 15, 25),
    ),
    "damaged": Kind(
        (
            "the {product} I bought {n} days ago arrived damaged",
            "my {product} came broken and I bought it {n} days ago",
        ),
        ("your {product} arrived damaged", "your {product} came broken", "the {product} you got is damaged"),
        ("it arrived damaged", "your order came broken"),
        r"\b(damaged?|broken|cracked)\b",
        (("replacement", "free_repair"), ("refund", "replacement")),
    ),
    "double": Kind(
        ("you charged me twice for my {product} {n} days ago", "I paid twice for my {product} {n} days ago"),
        (
            "we charged you twice for your {product}",
            "you paid twice for your {product}",
            "the {product} was charged twice",
        ),
        ("we charged you twice", "you paid twice"),
        r"\b(twice|double|second charge)\b",
        (("refund", "store_credit"),),
    ),
    "wrong": Kind(
        ("I got the wrong {product} {n} days ago", "{n} days ago you sent me the wrong {product}"),
        ("you got the wrong {product}", "we sent you the wrong {product}", "the wrong {product} came to you"),
        ("you got the wrong item", "we sent you the wrong thing"),
        r"\bwrong\b",
        (("exchange", "store_credit"), ("refund", "exchange")),
    ),
    "locked": Kind(
        ("my {product} account is locked after {n} tries", "I am locked out of my {product} account after {n} tries"),
        ("your {product} account is locked", "you are locked out of your {product} account"),
        ("your account is locked", "you are locked out"),
        r"\b(locked|blocked)\b",
        (("reset_link", "identity_check"),),
        unit="tries",
        limits=(3, 5),
        numbers=(2, 3, 4, 6, 7, 8, 9),
        products=SERVICES,
    ),
    "cancel": Kind(
        (
            "I want to cancel my {product} and I joined {n} days ago",
            "I joined {n} days ago and want to leave my {product}",
        ),
        ("you want to cancel your {product}", "you want to leave your {product}", "you wish to end your {product}"),
        ("you want to leave us", "you wish to cancel"),
        r"\b(want|wish) to (cancel|leave|end|stop)\b",
        (("instant", "month_end"), ("refund", "month_end")),
        products=SERVICES,
    ),
    "lost": Kind(
        ("my {product} got lost in the post {n} days ago", "the parcel with my {product} went missing {n} days ago"),
        ("your {product} got lost", "your {product} went missing", "the parcel with your {product} got lost"),
        ("your parcel got lost", "it went missing"),
        r"\b(lost|missing)\b",
        (("carrier_trace", "refund"), ("carrier_trace", "new_parcel")),
        limits=(5, 10),
        numbers=(2, 3, 4, 7, 8, 12, 15, 25),
    ),
    "warranty": Kind(
        ("my {product} stopped working after {n} months", "the {product} I bought {n} months ago is faulty"),
        ("your {product} stopped working", "your {product} is faulty", "the {product} you bought is faulty"),
        ("it stopped working", "the item is faulty"),
        r"\b(stopped working|faulty|no longer works)\b",
        (("free_repair", "paid_repair"), ("replacement", "paid_repair")),
        unit="months",
        limits=(12, 24),
        numbers=(3, 5, 8, 10, 18, 30, 36, 48),
    ),
}

HELLOS = ("Hello, this is {name}, order {order}.", "Hi, I am {name}, order {order}.", "{name} here, order {order}.")
QUESTIONS = ("What can you do?", "Can you help me?", "What happens now?", "How do we solve this?")
POLICIES = (
    "Policy: {early} up to {limit} {unit}, then {late} only.",
    "Policy: within {limit} {unit} {early}, later {late}.",
    "Policy: {early} within {limit} {unit}; after that {late}.",
)

# --- pieces of answers -------------------------------------------------------------------------------------------

GREETINGS = ("Hi {name}, ", "Hello {name}, ")
OPENERS = ("I am sorry that ", "I am sorry ", "we are sorry that ", "I understand that ", "I see that ")
GENERIC = (  # These sentences say nothing of the problem.
    "I am sorry about this",
    "we are sorry for the trouble",
    "I have read your message",
    "we got your message and understand it",
)
# These name the product, not the problem.
ABOUT = ("I am sorry about your {product}", "we got your message about your {product}")

IN_TIME = ("you are within the limit, so ", "as this is within the limit, ")
TOO_LATE = ("the limit has passed, so ", "as this is over the limit, ")
VAGUE = (
    "we will look into it",
    "our team will check this soon",
    "I will pass this on to my team",
    "somebody will get back to you",
    "we will see what we can do",
)
# These offer a second step beside the first.
SECOND = ("you could also ask for {noun}", "or you can have {noun} if you like")

PROMISES = (  # A regulated agent must not say these.
    "I promise it will be solved by Friday",
    "you will hear from us by Monday",
    "we guarantee that you will be happy",
    "you will also get a gift card",
    "we will pay you a compensation too",
    "all will be fine tomorrow",
    "we will add a big discount for you",
    "it will be done within 24 hours",
    "this will work for sure",
    "I give you my word",
)

THANKS_FIRST = ("Thank you for your message, {name}.", "Thanks for writing to us, {name}.", "Thank you for telling us.")
THANKS_LAST = (
    "Thank you for your patience.",
    "We appreciate your patience.",
    "Many thanks, {name}.",
    "Thank you.",
    "Kind regards.",
    "Please bear with us.",
)
TWO_THANKS = ("Thanks again and kind regards.", "Please accept our thanks.", "Thank you and kind regards.")
BEGGING = (
    "Thank you, thanks again, many thanks and kind regards.",
    "Please, please forgive us.",
    "Please forgive us, we beg you.",
    "Thank you so very much, dear and valued customer.",
    "We are grateful and honoured, thank you so much.",
)

FILLERS = (
    "Our shop has many happy customers and wants to keep it that way.",
    "We look at every case with great care before we write an answer.",
    "Things like this can happen even when everyone does their best.",
    "My team read your words more than once and talked about them.",
    "There are many hands between our store and your front door.",
    "This is of course far from how our service should be.",
    "I know that waiting for an answer is never much fun.",
    "We have been in this business for a very long time.",
    "You can find all our rules on the website at any hour.",
    "It is always good to hear from people who shop with us.",
    "Every order matters to the whole company, big or small.",
    "Last year we even won a prize for our customer care.",
)
