"""Whether a text is in another language than English, for the checks that know English only.

A text counts as English unless it shows another language: by its script, by more of the commonest words of another
language than of English, or by letters with marks and hardly any of the commonest English words. A text of a few words
shows nothing. No package is asked, so that a figure does not depend on what is installed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

OTHER = "it is not in English, which is all that the check knows"

_ENGLISH_WORDS = (
    "the of and to in is you that it he was for on are as with his they at be this have from or had by but what all "
    "were we when your can said there use an each which she do how their if will up about out many then them these so "
    "some her would make like him into has look more go see no way could my than been who its now find did get may i "
    "not a me our us am sorry please thank thanks very just don't i'm it's"
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
# The commonest words of languages in the Latin script. Those that are English words too ("die", "in", "on") are left
# out. One word may be in several languages.
_OTHERS = tuple(
    frozenset(words.split())
    for words in (
        "der und das nicht ich ist sie zu wir mit ein eine für auf dem den sich des es bitte wie auch von kann ihr",
        "de la le et les des un une est vous que pas je du pour qui dans il ne ce nous avec sur au cette vos votre",
        "de la el que y los en un una las por con para es se del lo su al mi está más pero usted gracias muy cómo",
        "di il che la un per non sono è della con una le del gli ciao mi si ho lo dei grazie questo molto come più",
        "de que o e um uma não para com os do da em é se você por mais como na no eu está obrigado muito seu sua ao",
        "de het een en ik niet je van dat zijn voor met hij deze u wij naar bij ook er uw maar kan heeft dit wordt",
        "och det att en jag inte är som på har för med du den av vi ett till kan om så var han hon men från",
        "og det at en jeg ikke er som på har for med du den av vi et til kan om så var han hun men fra af",
        "nie to jest się na że w i z do jak ale tak dla co czy po od jego przez są być ten może proszę mnie",
        "je se na to v že s z do si jak ale jsem pro co tak by jako podle nebo být které jsou děkuji není",
        "ve bir bu için da de ne ile çok mi ben sen var daha değil gibi olarak olan ama nasıl teşekkür kadar",
        "yang dan di ini itu dengan untuk tidak dari dalam akan pada ada juga saya anda ke bisa adalah karena atau",
        "và là của có không được cho một những người với này đã trong các bạn tôi để cũng rất như nhưng khi",
        "ja on ei se että hän oli en ole mutta kun niin myös tämä joka ovat olla minun mitä sinä voi kiitos",
        "a az és hogy nem egy is meg ez van de azt volt csak ha kell mint már vagy én köszönöm nagyon lehet",
        "și de la nu în a cu că un o este pe din să sunt pentru mai se ce le care am ca vă mulțumesc",
        "ang ng sa na mga ay at hindi ito ko si po ako kung para siya naman lang mo kayo salamat",
        "na ya wa ni kwa katika la si za hii kuwa ambayo kama lakini yake sana watu ili hiyo cha asante",
        "de que i la el en un una els les per amb és no del al es seu què però més molt com si gràcies",
    )
)
_TELLING = tuple(words - _ENGLISH for words in _OTHERS)
_ENOUGH = 4  # words, below which only the script tells


@lru_cache(maxsize=4096)
def is_other(text: str) -> bool:
    """Whether a text shows another language than English."""
    letters = [c for c in text if c.isalpha()]
    latin = [c for c in letters if unicodedata.name(c, "").startswith("LATIN")]
    if len(latin) * 2 < len(letters):
        return True
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower().replace("’", "'"))
    if len(words) < _ENOUGH:
        return False
    english = sum(word in _ENGLISH for word in words)
    other = max(sum(word in telling for word in words) for telling in _TELLING)
    marked = sum(not c.isascii() for c in latin)
    return (other >= 2 and other > english) or (marked >= 0.04 * len(latin) and english < 0.1 * len(words))
