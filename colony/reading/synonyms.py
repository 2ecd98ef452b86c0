"""Words that documents use for what people ask about: a short list for technical prose, no dictionary."""

import re
from functools import lru_cache

from colony.reading.terms import stem

_GROUPS = """
remove delete drop clear erase discard purge uninstall
create make define declare construct build generate new add
change modify alter update edit adjust customize override replace set
disable deactivate suppress prevent avoid skip bypass
enable activate allow
show display print output list view see inspect
run execute invoke launch start call
stop terminate abort halt kill quit exit shutdown interrupt
cancel revoke abort
limit restrict maximum max cap bound constrain
size length bytes
error exception failure fail
fetch download retrieve load read obtain
send submit post emit publish upload transmit
save store persist write keep dump export
upload file
wait block sleep delay
repeat retry rerun again
fast speed performance quick efficient optimize
folder directory path
find search locate look discover identify
check verify validate test ensure
required mandatory require must
immutable frozen readonly
forbid disallow reject deny prohibit
background daemon detach daemonize
simultaneous concurrent parallel concurrency
begin start
choose select pick
login authentication authenticate credentials auth log-in
schedule periodic cron interval crontab
expire expiration retain lifetime
certificate ssl tls
answer reply response
show see view
unlimited arbitrary variadic unbounded
undo revert reset discard rollback downgrade
squash combine fold meld
sign signature signed
screen terminal
editor edit
environment env
identical same duplicate
restart resume
share reuse
nested inner savepoint
stale disconnected dropped
switch checkout
password passphrase
prompt ask
confirmation confirm
encrypt encryption cipher
compress compression gzip
pretty-print indent
recommend should prefer advise
risk danger caution warning
""".strip().splitlines()

_BY_KEY: dict[str, set[str]] = {}
for _line in _GROUPS:
    _members = {stem(word.replace("-", "_")) for word in _line.split()}
    for _member in _members:
        _BY_KEY.setdefault(_member, set()).update(_members - {_member})

PHRASES = tuple(
    (re.compile(rf"\b{pattern}\b", re.IGNORECASE), word)
    for pattern, word in (
        (r"turn(?:ing|ed)? off", "disable"),
        (r"turn(?:ing|ed)? on", "enable"),
        (r"switch(?:ing|ed)? off", "disable"),
        (r"get rid of", "remove"),
        (r"set(?:ting)? up", "configure"),
        (r"look(?:ing)? up", "find"),
        (r"log(?:ging)? in", "login"),
        (r"time[- ]?outs?", "timeout"),
        (r"shut(?:ting)? down", "shutdown"),
        (r"go(?:ing)? back", "revert"),
        (r"roll(?:ing)? back", "rollback"),
        (r"clean(?:ing)? up", "cleanup"),
        (r"speed up", "faster performance"),
        (r"find out", "find"),
    )
)


@lru_cache(maxsize=10_000)
def alternatives_of(key: str) -> tuple[str, ...]:
    return tuple(sorted(_BY_KEY.get(key, ())))
