"""Everyday English sentences from a small grammar: a closed vocabulary in which every word comes back often.

The grammar is a context-free one. A word in capitals names a rule, any other word is spoken as it stands;
``|`` separates alternatives, which are equally likely. Words that English spells alike and says differently
(read, live, close, wind, tear, use) are left out, so that the spelling settles the pronunciation.
"""

import random

MIN_WORDS, MAX_WORDS = 3, 14

_GRAMMAR = """
SENTENCE: STATEMENT | STATEMENT | STATEMENT TIME | TIME STATEMENT | SHORT JOIN SHORT | QUESTION | COMMAND | THERE

STATEMENT: PERSON VERB THING PLACE | PERSON VERB THING PLACE | PERSON MOVED PLACE | PERSON HOW MOVED PLACE
STATEMENT: PERSON WOULD DO THING PLACE | PERSON VERB THING AND THING | PERSON SAID SHORT | THING WAS QUALITY AND QUALITY
STATEMENT: PERSON VERB THING with THING | PERSON VERB COUNT PLURAL PLACE | COUNT PLURAL WERE PLACE
SHORT: PERSON VERB THING | PERSON MOVED PLACE | THING WAS QUALITY | PERSON HOW VERB THING | PERSON WOULD DO THING
QUESTION: ASK PERSON DO THING PLACE | ASK PERSON DO THING | who VERB THING PLACE | did PERSON DO THING TIME
COMMAND: please DO THING PLACE | don't DO THING PLACE | let's DO THING TIME | come and DO THING PLACE
THERE: there was THING PLACE | there were COUNT PLURAL PLACE | it was QUALITY PLACE TIME

PERSON: he | she | we | they | i | you | NAME | NAME | NAME and NAME | OWNER HUMAN | the HUMAN | the TRAIT HUMAN
NAME: anna | george | john | mary | jack | joy | ruth | hugh | charlie
HUMAN: boy | girl | man | woman | child | teacher | doctor | farmer | nurse | judge | brother | sister | father | mother
HUMAN: cousin | neighbor
TRAIT: young | old | happy | tired | quiet | kind | poor | strange
OWNER: my | your | his | her | our | their | the boy's | the girl's | the teacher's | mary's | george's

THING: ARTICLE NOUN | ARTICLE NOUN | ARTICLE LOOK NOUN | ARTICLE LOOK NOUN | OWNER NOUN | OWNER LOOK NOUN
ARTICLE: the | the | this | that | one | another
NOUN: book | dog | cat | house | garden | table | chair | watch | box | ship | bird | horse | fish | apple | orange | cup
NOUN: shoe | hat | picture | letter | treasure | toy | coin | key | door | window | bridge | cheese | bread
NOUN: sugar | fire | cloud | flower | tree | leaf | stone | bag | bottle | vision | measure | television
NOUN: egg | chicken | tooth | thumb | earth | voice | noise | cake | bath
LOOK: red | green | blue | yellow | black | white | brown | big | small | long | short | heavy | light | new | good | bad
LOOK: beautiful | broken | huge | thick | thin | smooth | cold | warm | unusual | round | cheap
COUNT: two | three | four | five | six | seven | eight | nine | ten | many | some | several
PLURAL: books | dogs | cats | houses | boxes | birds | horses | boys | girls | children | toys | keys | trees | leaves
PLURAL: stones | teeth | voices | oranges | shoes | eggs | chairs

VERB: saw | found | brought | wanted | liked | bought | sold | lost | made | watched | washed | pushed | pulled
VERB: carried | opened | showed | painted | cooked | gave up | picked up | put down | looked at | thought about | joined
VERB: measured | enjoyed | touched | threw | forgot | caught | moved
DO: see | find | bring | want | like | buy | sell | make | watch | wash | push | pull | carry | open | show
DO: paint | cook | pick up | put down | look at | think about | join | measure | enjoy | touch | throw | forget
DO: catch | move
WOULD: would | could | should | will | can | must | can't | won't | didn't | didn't | wanted to | had to
SAID: said that | thought that | knew that | heard that | hoped that
MOVED: went | walked | ran | came | stood | sat | stayed | played | worked | waited | jumped | laughed
HOW: slowly | quickly | usually | never | always | often | quietly
ASK: did | would | could | should | why did | when did | where did | how could
WAS: was | is | looked | seemed | wasn't
WERE: were | lay | stood
QUALITY: red | green | blue | old | new | good | bad | big | small | long | heavy | beautiful | broken | cold | warm | huge
QUALITY: quiet | dark | dry | strange | clear | very LOOK | too LOOK | rather LOOK

PLACE: WHERE the SPOT | WHERE the SPOT | WHERE the SPOT | WHERE OWNER SPOT | here | over there | at home | outside
WHERE: in | near | under | behind | by | on | from | around | above | between
SPOT: house | garden | school | river | kitchen | table | garage | church | street | town | village | field | forest
SPOT: road | shop | beach | mountain | room | bridge | water
TIME: today | yesterday | last night | this morning | in the evening | on monday | on thursday | again | at once | every year
TIME: before dinner | after lunch | a month ago | all day
JOIN: and | but | because | so | when | while | before
AND: and | or
"""


def _parse(text: str) -> dict[str, list[list[str]]]:
    """Rule name -> its alternatives, each a list of words; lines of the same name add up."""
    rules: dict[str, list[list[str]]] = {}
    for line in filter(None, text.splitlines()):
        name, alternatives = line.split(":")
        rules.setdefault(name, []).extend(choice.split() for choice in alternatives.split("|"))
    return rules


_RULES = _parse(_GRAMMAR)

VOCABULARY: tuple[str, ...] = tuple(
    sorted({word for rule in _RULES.values() for choice in rule for word in choice if word not in _RULES})
)


def _expand(symbol: str, rng: random.Random) -> list[str]:
    if symbol not in _RULES:
        return [symbol]
    return [word for part in rng.choice(_RULES[symbol]) for word in _expand(part, rng)]


def _repeats_itself(words: list[str]) -> bool:
    """A word said twice in a row or a content word used twice ("the red red book", "anna and anna")."""
    content = [word for word in words if len(word) > 4]
    return len(set(content)) < len(content) or any(a == b for a, b in zip(words, words[1:], strict=False))


def sentence(rng: random.Random) -> str:
    """One sentence of ``MIN_WORDS`` to ``MAX_WORDS`` words in lower case, all of them in ``VOCABULARY``.

    The same state of ``rng`` gives the same sentence on every machine.
    """
    while True:
        words = _expand("SENTENCE", rng)
        if MIN_WORDS <= len(words) <= MAX_WORDS and not _repeats_itself(words):
            return " ".join(words)
