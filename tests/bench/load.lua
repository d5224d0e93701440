-- wrk script: one kind of call (KIND: chat, chat20, embed, stream) with the keys of the file KEYS in
-- rotation, for SECONDS seconds. After that it sends nothing more (an empty request is none) and
-- wrk's remaining time lets every call in flight be answered: what wrk counts as answered is then
-- exactly what was asked.
local bodies = {
  chat = '{"model":"bench","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Hello, how are you doing today? Please answer at length."}],"temperature":0.7}',
  stream = '{"model":"bench","stream":true,"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Hello, how are you doing today? Please answer at length."}],"temperature":0.7}',
  embed = '{"model":"bench-embed","input":"The quick brown fox jumps over the lazy dog."}',
}
bodies.chat20 = bodies.chat:gsub('"bench"', '"bench-20"', 1)
local requests, position, deadline = {}, 0, 0

function init(args)
  local path = os.getenv("KIND") == "embed" and "/v1/embeddings" or "/v1/chat/completions"
  for key in io.lines(os.getenv("KEYS")) do
    requests[#requests + 1] = wrk.format("POST", path, {
      ["Host"] = wrk.headers["Host"],
      ["Content-Type"] = "application/json",
      ["Authorization"] = "Bearer " .. key,
    }, bodies[os.getenv("KIND")])
  end
  deadline = os.time() + tonumber(os.getenv("SECONDS"))
end

function request()
  if os.time() >= deadline then return "" end
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"answered": %d, "failed": %d, "broken": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
