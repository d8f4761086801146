-- wrk sends the requests of a file in turns; they end with a NUL. UNIQUE in one of them becomes another number each time.
local requests, position, number, unique = {}, 0, 0, false

function init(args)
  local file = assert(io.open(args[1], "rb"))
  for request in file:read("*a"):gmatch("([^%z]+)%z") do
    requests[#requests + 1] = request
    unique = unique or request:find("UNIQUE", 1, true) ~= nil
  end
  file:close()
end

function request()
  position = position % #requests + 1
  if not unique then
    return requests[position]
  end
  number = number + 1
  return (requests[position]:gsub("UNIQUE", tostring(number)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("requests=%d microseconds=%d p50=%d p99=%d status=%d connect=%d read=%d write=%d timeout=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
