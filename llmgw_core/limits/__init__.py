"""May they now: meters, the limiter port and the in-memory limiter, the token estimator."""
