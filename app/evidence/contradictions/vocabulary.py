"""The words that sentences are read by. English only: a source in another language states nothing here."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


STOP = _set(
    "a an the of to in on at for by with from and or is are be been being has have had do does did it its itself there their "
    "they them we us you our your as into that which this these those so then than also very such per se while but"
)
FILLERS = _set("currently now always only just exactly total overall please today actually really simply still")
HEDGES = _set("usually typically often sometimes normally generally mostly rarely frequently perhaps possibly probably")
NEGATIONS = _set("not never cannot neither nor none without no")
MOODS = {
    "should": "should", "ought": "should", "may": "may", "can": "may", "might": "may", "could": "may", "would": "would",
    "will": "future", "shall": "must", "must": "", "plans": "future", "planned": "future",
}  # fmt: skip
PAST = _set("was were took ran went made got came grew fell rose previously formerly originally once used ago last")
CONDITIONS = _set("if unless when whenever except until only otherwise whether before after example")
ALIKE = {
    "max": "maximum", "min": "minimum", "lasts": "take", "requires": "need", "require": "need", "people": "person",
    "persons": "person", "docs": "document",
}  # fmt: skip
# The opposite of a word is that word and a negation; of the last two it is the same.
OPPOSITES = {
    "disabled": "enabled", "inactive": "active", "closed": "open", "optional": "required", "unsupported": "supported",
    "forbidden": "allowed", "prohibited": "allowed", "unencrypted": "encrypted", "impossible": "possible", "private": "public",
    "unavailable": "available", "offline": "online", "invalid": "valid", "unlimited": "limited", "permitted": "allowed",
    "mandatory": "required",
}  # fmt: skip
SAME_SENSE = ("permitted", "mandatory")
# Words that name no matter by themselves.
VAGUE = _set(
    "default value time timeout limit maximum minimum number size count rate price cost date owner name state status version "
    "type take need use run work make get set be begin start end go include contain support require allow provide system "
    "service server user customer team company project release document file it thing person day week month year total "
    "average budget deadline lead contact record account stage priority follow new old first"
)
KINDS_OF_RECORD = _set("lead customer account record company deal opportunity ticket contact service server")
# What happens on one day only, so that two days for it cannot both be right; by stem.
EVENTS = _set(
    "due deadlin expir end start begin launch releas found sign effect schedul valid retir close open born birth renew termin "
    "complet deliv kickoff cutov live date plan publish ship"
)
ROLES = _set("owner maintainer manager author lead contact approver sponsor ceo cto director head chair")
STATES = _set("state status stage priority phase")
RELATIONS = {word: word for word in ROLES | STATES} | {"prioriti": "priority"}  # by stem
HINTS = {"owner": {"own", "run"}, "manager": {"manag"}, "lead": {"lead", "led"}, "author": {"author", "writ"}}
DONE_BY = {
    "owned": "owner",
    "maintained": "maintainer",
    "led": "lead",
    "managed": "manager",
    "written": "author",
    "run": "owner",
}
SAME_STATE = (
    "done completed complete finished closed resolved",
    "ongoing started active running progress",
    "open new pending todo",
    "approved accepted",
    "rejected declined denied",
    "cancelled canceled",
)
GENERIC_HEADINGS = _set(
    "overview introduction general summary contact details owner readme about notes background status facts contents index "
    "description information misc other faq appendix scope purpose"
)
ENVIRONMENTS = _set("staging production prod dev development test testing qa local eu us apac emea canary beta alpha")
# A number behind one of these is a name, not a measure.
NAMED = _set(
    "version release section chapter step phase rfc issue ticket figure table page line case example level tier stage sprint "
    "node server shard team group type class option part rule article item number no nr id error code status http exit room "
    "building floor gate line batch round appendix annex invoice order customer"
)
BEFORE = _set("is are was were be equals = : to of at than takes take")  # what a bare number may follow
SPELLED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
)
MONTHS = (
    "january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug", "september sep sept",
    "october oct", "november nov", "december dec",
)  # fmt: skip
