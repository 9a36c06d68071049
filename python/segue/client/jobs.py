"""The client's calls about jobs."""

from __future__ import annotations

from urllib.parse import quote

from segue.api.jobs import Drain, JobInfo, LimitJob, MoveDisk
from segue.client.connection import Connection


class Jobs(Connection):
    """``/v1/jobs``, and the verbs that make jobs.

    `bandwidth` is in bytes a second, 0: no limit.
    """

    def jobs(self) -> list[JobInfo]:
        """All jobs that are not over, and the newest of those that are, by number."""
        return self.call("GET", "jobs", list[JobInfo])

    def job(self, number: int) -> JobInfo:
        """The job of that number."""
        return self.call("GET", f"jobs/{number}", JobInfo)

    def move_disk(
        self,
        name: str,
        to: str,
        *,
        first_segment: int = 0,
        segments: int = 0,
        bandwidth: int = 0,
        latency_us: int = 0,
    ) -> JobInfo:
        """Move a disk, or some segments of it (0: to its end), to a container."""
        body = MoveDisk(
            to=to,
            first_segment=first_segment,
            segments=segments,
            bandwidth=bandwidth,
            latency_us=latency_us,
        )
        return self.call("POST", f"disks/{quote(name, safe='')}/move", JobInfo, body)

    def drain_container(self, name: str, *, bandwidth: int = 0, latency_us: int = 0) -> JobInfo:
        """Move everything out of a container; nothing new is put there from now on."""
        body = Drain(bandwidth=bandwidth, latency_us=latency_us)
        return self.call("POST", f"containers/{quote(name, safe='')}/drain", JobInfo, body)

    def fill_container(self, name: str) -> None:
        """Let a container that was drained be used again."""
        self.call("POST", f"containers/{quote(name, safe='')}/fill", type(None))

    def rebalance(self, *, bandwidth: int = 0, latency_us: int = 0) -> JobInfo:
        """Move segments until the containers of each pool are about equally full."""
        body = Drain(bandwidth=bandwidth, latency_us=latency_us)
        return self.call("POST", "jobs/rebalance", JobInfo, body)

    def cancel_job(self, number: int) -> JobInfo:
        """Begin nothing new for a job; what is under way is finished."""
        return self.call("POST", f"jobs/{number}/cancel", JobInfo)

    def limit_job(self, number: int, bandwidth: int) -> JobInfo:
        """Give a running job another bandwidth."""
        return self.call("POST", f"jobs/{number}/limit", JobInfo, LimitJob(bandwidth))
