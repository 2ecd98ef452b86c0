-- wrk's half of bench/load.py: the same body every time, every second request with an Idempotency-Key of its own.
local number, run = 0, os.getenv("BENCH_RUN")
local body, senders = os.getenv("BENCH_BODY"), {}
for one in (os.getenv("BENCH_AUTHORIZATIONS") .. "\n"):gmatch("(.-)\n") do senders[#senders + 1] = one end

function request()
  number = number + 1
  local headers = { ["Content-Type"] = "application/json" }
  -- senders in turns, each with one request that has a key and one that has none
  local authorization = senders[math.floor(number / 2) % #senders + 1]
  if authorization ~= "" then headers["Authorization"] = authorization end
  if run ~= "" and number % 2 == 0 then headers["Idempotency-Key"] = run .. "-" .. number end
  return wrk.format("POST", nil, headers, body)
end

function done(summary, latency)
  local e = summary.errors
  io.stderr:write(string.format(
    '{"answers": %d, "refused": %d, "broken": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, e.status, e.connect + e.read + e.write + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
