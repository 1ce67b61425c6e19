-- What wrk tells of a run, as one line: requests, µs, errors, then p50, p99 and p99.9 in µs.
done = function(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("FIGURES %d %d %d %d %d %d\n", summary.requests, summary.duration, failed,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
