"""What each fault of the fake server is to every transport: kind of error, and what it says."""

from raft.backends.hosted.errors import Broken, Busy, Denied, Refused

EXPECTED = [
    ("429", Busy, {"retry_after": 0.0}),
    ("503", Busy, {}),
    ("529", Busy, {}),
    ("500", Broken, {"billed": False}),
    ("502", Broken, {"billed": False}),
    ("malformed", Broken, {"billed": True}),
    ("close", Broken, {"billed": True}),
    ("cut", Broken, {"billed": True}),
    ("400", Refused, {"kind": "refused"}),
    ("422", Refused, {"kind": "refused"}),
    ("policy", Refused, {"kind": "refused"}),
    ("context", Refused, {"kind": "too long"}),
    ("401", Denied, {}),
    ("402", Denied, {}),
    ("403", Denied, {}),
    ("404", Denied, {}),
    ("quota", Denied, {}),
]
