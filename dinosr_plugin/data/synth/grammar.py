"""Everyday English sentences from a small grammar with a closed vocabulary, in which every word occurs often.

The grammar is context-free. A word in capitals is the name of a rule, all other words are spoken; ``|`` separates
alternatives, which are equally likely. Homographs (read, live, close, wind, tear, use) are left out, so that the
spelling determines the pronunciation.
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
NAME: anna | george | john | mary | joy | hugh | charlie
HUMAN: boy | girl | man | woman | child | teacher | doctor | judge | brother | sister | father | mother
TRAIT: young | old | happy | quiet | kind | strange
OWNER: my | your | his | her | our | their | the boy's | the girl's | the teacher's | mary's | george's

THING: ARTICLE NOUN | ARTICLE NOUN | ARTICLE LOOK NOUN | ARTICLE LOOK NOUN | OWNER NOUN | OWNER LOOK NOUN
ARTICLE: the | the | this | that | one | another
NOUN: book | dog | cat | house | garden | table | chair | box | ship | bird | horse | fish | orange | cup | shoe
NOUN: letter
NOUN: treasure | toy | coin | key | door | window | bridge | cheese | sugar | fire | flower | tree | stone | bag
NOUN: bottle
NOUN: measure | television | egg | chicken | tooth | thumb | earth | voice | noise
LOOK: red | green | blue | yellow | black | white | big | small | long | heavy | new | good | bad | beautiful | broken
LOOK: huge | cold | warm | unusual | cheap
COUNT: two | three | four | five | six | seven | ten | several
PLURAL: dogs | boxes | birds | boys | children | toys | keys | teeth | oranges | shoes | chairs

VERB: saw | found | brought | wanted | liked | made | washed | pulled | carried | opened | showed | gave up | picked up
VERB: put down | looked at | thought about | joined | enjoyed | forgot | caught | moved
DO: see | find | bring | want | like | buy | make | wash | push | open | show | pick up | put down | look at
DO: think about | join | enjoy | touch | catch | move
WOULD: would | could | should | will | can | must | can't | won't | didn't | didn't | wanted to | had to
SAID: said that | thought that | heard that
MOVED: went | walked | ran | came | sat | played | waited | jumped
HOW: slowly | quickly | usually | never | always | often
ASK: did | would | could | should | why did | when did | where did | how could
WAS: was | is | looked | seemed | wasn't
WERE: were | stood
QUALITY: red | green | blue | old | new | good | bad | big | small | long | heavy | beautiful | broken | cold | warm
QUALITY: huge
QUALITY: quiet | strange | very LOOK | too LOOK | rather LOOK

PLACE: WHERE the SPOT | WHERE the SPOT | WHERE the SPOT | WHERE OWNER SPOT | here | over there | at home | outside
WHERE: in | near | under | behind | by | from | around | between
SPOT: house | garden | school | river | table | garage | church | village | beach | bridge | water
TIME: today | yesterday | last night | this morning | in the evening | on monday | on thursday | again | at once
TIME: every year
TIME: before dinner | after lunch | a month ago | all day
JOIN: and | but | because | so | when | while | before
AND: and | or
"""


Rules = dict[str, list[list[str]]]


def parse(text: str) -> Rules:
    """Rule name -> its alternatives, each a list of words; lines with the same name are joined."""
    rules: Rules = {}
    for line in filter(None, text.splitlines()):
        name, alternatives = line.split(":")
        rules.setdefault(name, []).extend(choice.split() for choice in alternatives.split("|"))
    return rules


RULES = parse(_GRAMMAR)

VOCABULARY: tuple[str, ...] = tuple(
    sorted({word for rule in RULES.values() for choice in rule for word in choice if word not in RULES})
)


def word_class(rule: str) -> frozenset[str]:
    """The alternatives of a rule that are single words, such as ``word_class("ARTICLE")``."""
    return frozenset(choice[0] for choice in RULES[rule] if len(choice) == 1 and choice[0] not in RULES)


def _expand(symbol: str, rng: random.Random, rules: Rules) -> list[str]:
    if symbol not in rules:
        return [symbol]
    return [word for part in rng.choice(rules[symbol]) for word in _expand(part, rng, rules)]


def _repeats_itself(words: list[str]) -> bool:
    """Whether a word is repeated within three words ("mary and mary"), or a long one anywhere in the sentence."""
    long = [word for word in words if len(word) > 4]
    return len(set(long)) < len(long) or any(word in words[i + 1 : i + 3] for i, word in enumerate(words))


def sentence(rng: random.Random, rules: Rules = RULES) -> str:
    """One sentence of ``MIN_WORDS`` to ``MAX_WORDS`` words, in lower case; by default of ``VOCABULARY``.

    The same state of ``rng`` gives the same sentence on every machine.
    """
    while True:
        words = _expand("SENTENCE", rng, rules)
        if MIN_WORDS <= len(words) <= MAX_WORDS and not _repeats_itself(words):
            return " ".join(words)


QUESTION_WORDS = ("did", "would", "could", "should", "why", "where", "who", "how")


def punctuated(words: str, question_words: tuple[str, ...] = QUESTION_WORDS) -> str:
    """The sentence with the final punctuation, which makes the synthesiser's voice rise at the end of a question."""
    return words + ("?" if words.startswith(question_words) else ".")
