"""Whether the client of an HTTP connection makes progress: time limits for headers, bodies and answers. Reads no
clock."""

from __future__ import annotations

import math

HEAD_TIMEOUT_S = 20.0
"""Time from the connection, or the first byte of a later request, to the end of its headers. Source: Apache's
RequestReadTimeout, header=20-40."""
BODY_WINDOW_S = 20.0
BODY_WINDOW_BYTES = 4_096
"""Bytes of a body that must arrive in each window, unless it ends. Source: Apache's RequestReadTimeout,
body=20,MinRate=500, rounded down."""
BODY_GRACE_S = 60.0
MIN_BODY_BYTES_PER_S = 16_384
"""A whole body has a base time plus a second for each of these bytes that arrives, so that nobody keeps the share of a
large one in memory for hours. A judgment: 128 kbit/s."""
UNREAD_TIMEOUT_S = 60.0
"""A client that reads nothing of its answer for this long is disconnected. Source: nginx, send_timeout."""


class ConnectionPace:
    """Progress of one connection. Times are seconds of any monotonic clock."""

    def __init__(self, now_s: float) -> None:
        """The connection has been made."""
        self.request_s = now_s
        """Since when the headers of a request are awaited; infinite if none are."""
        self._body_s = math.inf
        """Begin of the window in which a piece of the body must arrive; infinite if none is awaited."""
        self._body_bytes = 0
        """Bytes of the body that have arrived in this window."""
        self._body_due_s = math.inf
        """When the whole body must have arrived; later with each piece."""
        self._unread_s = math.inf
        """Since when the client has read nothing of its answer; infinite if nothing waits for it."""
        self._unread_bytes = 0
        """Bytes that waited at that time."""

    @property
    def awaits_headers(self) -> bool:
        """Whether the headers of a present or next request are incomplete."""
        return self.request_s != math.inf

    @property
    def is_in_body(self) -> bool:
        """Whether headers are complete, but the body is not."""
        return self._body_s != math.inf

    @property
    def is_idle(self) -> bool:
        """Whether nothing is awaited."""
        return not self.awaits_headers and not self.is_in_body

    def begin_request(self, now_s: float) -> None:
        """The first byte of a later request has arrived."""
        self.request_s = now_s

    def begin_body(self, now_s: float) -> None:
        """The headers are complete."""
        self.request_s = math.inf
        self._body_due_s = now_s + BODY_GRACE_S
        self._begin_window(now_s)

    def take_body(self, num_bytes: int) -> None:
        """A piece of the body has arrived."""
        self._body_bytes += num_bytes
        self._body_due_s += num_bytes / MIN_BODY_BYTES_PER_S

    def end_body(self) -> None:
        """The request is complete."""
        self._body_s = math.inf

    def is_unread(self, num_bytes: int, now_s: float) -> bool:
        """Whether the client has for too long read none of the `num_bytes` that wait for it."""
        if not num_bytes:
            self._unread_s = math.inf
        elif self._unread_s == math.inf or num_bytes < self._unread_bytes:
            self._unread_s = now_s
        self._unread_bytes = num_bytes
        return now_s - self._unread_s > UNREAD_TIMEOUT_S

    def lateness(self, now_s: float, *, is_paused: bool, is_answering: bool) -> str | None:
        """What has taken too long; None: nothing. To be called about once a second.

        Args:
            now_s: the present time.
            is_paused: whether the body waits for the application, which has not read what is there.
            is_answering: whether the answer to an earlier request is not sent completely.
        """
        if self.is_in_body and is_paused:
            self._body_due_s = max(self._body_due_s, now_s + BODY_WINDOW_S)
            self._begin_window(now_s)
        elif self.is_in_body and now_s > self._body_due_s:
            return f"the body comes too slowly: less than {MIN_BODY_BYTES_PER_S} bytes a second"
        elif now_s - self._body_s > BODY_WINDOW_S:
            if self._body_bytes < BODY_WINDOW_BYTES:
                return f"the body stood still for {BODY_WINDOW_S:.0f} s"
            self._begin_window(now_s)
        elif now_s - self.request_s > HEAD_TIMEOUT_S:
            if not is_answering:
                return f"no whole headers in {HEAD_TIMEOUT_S:.0f} s"
            self.request_s = now_s  # time limits of later requests begin after the answer
        return None

    def _begin_window(self, now_s: float) -> None:
        self._body_s, self._body_bytes = now_s, 0
