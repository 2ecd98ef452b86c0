#!/bin/sh
# Every main call with curl: the twin of client.py. Needs curl and python3.
#
#     sh docs/examples/curl.sh URL SUBMITTERS_KEY OPERATORS_KEY
set -eu
URL=$1 SUBMITTER=$2 OPERATOR=$3
SEEN=$(mktemp) && trap 'rm -f "$SEEN"' EXIT

json() { python3 -c "import json, sys; found = json.load(sys.stdin); print($1)"; }      # json 'found["id"]'
call() { key=$1; shift; curl --silent --show-error --fail-with-body -H "Authorization: Bearer $key" "$@"; }
etag() { call "$1" -D "$SEEN" -o /dev/null "$URL$2" && sed -n 's/^[Ee][Tt]ag: *//p' "$SEEN" | tr -d '\r'; }
once() { python3 -c "import uuid; print(uuid.uuid4())"; }                                # an Idempotency-Key

ask() { # type, goal
  call "$SUBMITTER" -H "Content-Type: application/json" -H "Idempotency-Key: $(once)" \
    -d "{\"mission_type\": \"$1\", \"user_goal\": \"$2\"}" "$URL/v1/missions"
}
mission() { call "$SUBMITTER" "$URL/v1/missions/$1"; }
wait() { # id, another state to be content with
  cursor=
  while state=$(mission "$1" | json 'found["state"]'); do
    case $state in completed | failed | cancelled | denied | "${2:-completed}") echo "$state"; return ;; esac
    cursor=$(call "$SUBMITTER" "$URL/v1/missions/$1/events?wait=25${cursor:+&cursor=$cursor}" | json 'found["next_cursor"]')
  done
}
packet() { call "$SUBMITTER" "$URL/v1/missions/$1/packet"; }
approvals() { call "$OPERATOR" "$URL/v1/approvals?state=pending&limit=200&mission=$1"; }
decide() { # approval, decision, comment
  version=$(etag "$OPERATOR" "/v1/approvals/$1")
  seen=$(call "$OPERATOR" "$URL/v1/approvals/$1" | json 'found["payload_sha256"]')
  call "$OPERATOR" -H "Content-Type: application/json" -H "If-Match: $version" -H "Idempotency-Key: $(once)" \
    -d "{\"decision\": \"$2\", \"payload_sha256\": \"$seen\", \"comment\": \"$3\"}" "$URL/v1/approvals/$1/decisions"
}
cancel() { # id, reason
  call "$SUBMITTER" -H "Content-Type: application/json" -H "If-Match: $(etag "$SUBMITTER" "/v1/missions/$1")" \
    -d "{\"reason\": \"$2\"}" "$URL/v1/missions/$1/cancel"
}
evaluate() { # action, resource
  call "$SUBMITTER" -H "Content-Type: application/json" \
    -d "{\"action\": \"$1\", \"resource\": \"$2\", \"context\": {\"mode\": \"autonomous\"}}" "$URL/v1/policies/evaluate"
}
explain() { call "$OPERATOR" --get --data-urlencode "id=$1" -d verify=true "$URL/v1/explain"; }
verify() { call "$OPERATOR" -X POST "$URL/v1/ledger/verify"; }

echo "policy would $(evaluate mission.create oracle_advisory | json 'found["effect"]')"
first=$(ask oracle_advisory "What is there to read?" | json 'found["id"]')
echo "cancelled: $(cancel "$first" "asked by mistake" 2> "$SEEN" | json 'found.get("state") or found["code"]')"  # or it went on meanwhile
asked=$(ask crm_lead_intelligence "Which leads deserve a call, and why?" | json 'found["id"]')
echo "$asked is $(wait "$asked" awaiting_approval)"
echo "claims: $(packet "$asked" | json 'len(found["claims"])')"
for approval in $(approvals "$asked" | json '" ".join(one["id"] for one in found["items"])'); do
  echo "$approval is $(decide "$approval" reject "Only looking." | json 'found["state"]')"
done
echo "$asked is $(wait "$asked")"
explain "$asked" | json '"\n".join(one["at"] + " " + one["sentence"] for one in found["steps"])'
echo "verified: $(verify | json 'found["verified"]')"
