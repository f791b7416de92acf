"""What each fault of the fake server is to every transport: kind of error, and what it says."""

from raft.backends.hosted.errors import AccessDenied, RateLimited, Rejected, Transient, UnknownModel

EXPECTED = [
    ("429", RateLimited, {"retry_after": 0.0}),
    ("503", RateLimited, {}),
    ("529", RateLimited, {}),
    ("500", Transient, {"billed": False}),
    ("502", Transient, {"billed": False}),
    ("malformed", Transient, {"billed": True}),
    ("close", Transient, {"billed": True}),
    ("cut", Transient, {"billed": True}),
    ("400", Rejected, {"kind": "refused"}),
    ("422", Rejected, {"kind": "refused"}),
    ("policy", Rejected, {"kind": "refused"}),
    ("context", Rejected, {"kind": "too long"}),
    ("401", AccessDenied, {}),
    ("402", AccessDenied, {}),
    ("403", AccessDenied, {}),
    ("404", UnknownModel, {}),
    ("quota", AccessDenied, {}),
]
