-- Sends one constant chat completion over and over. From the environment: BENCH_BODY (a file) and
-- BENCH_HEADERS ("Name: value" lines). The report's last line is JSON after the word REPORT.
wrk.method = "POST"
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.body = file:read("*a")
file:close()
for name, value in os.getenv("BENCH_HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
  wrk.headers[name] = value
end

function done(summary, latency, requests)
  local seconds = summary.duration / 1e6
  local failed = summary.errors
  io.write(string.format(
    'REPORT {"answers": %d, "seconds": %.3f, "rps": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, ' ..
    '"bytes_each": %.0f, "bad_status": %d, "socket_errors": %d, "timeouts": %d}\n',
    summary.requests, seconds, summary.requests / seconds,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.bytes / math.max(summary.requests, 1),
    failed.status, failed.connect + failed.read + failed.write, failed.timeout))
end
