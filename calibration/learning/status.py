"""What a store knows, as numbers and lines for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reasonctl.controller import AuditSummary
from reasonctl.controller.audits import Store, summaries

from .traffic import Stage


@dataclass(frozen=True)
class StoreStatus:
    """What a store knows now."""

    audits: list[AuditSummary]
    """Its promises that were watched, in order."""
    stages: list[Stage]
    """Of a store that learns, how far each of its promises is or was."""
    labelled: int = 0
    """Runs of the newest promise that are labelled."""
    waiting: int = 0
    """Runs of the newest promise that wait for their labels."""
    by_client: tuple[int, ...] = ()
    """Runs of the newest promise by client, where clients have names; the most first."""

    @property
    def seen(self) -> int:
        """Runs of the traffic, those that don't count included."""
        return sum(stage.seen for stage in self.stages) if self.stages else sum(one.admitted for one in self.audits)

    @property
    def alarms(self) -> int:
        """Alarms that were raised."""
        return sum(one.alarm for one in self.audits)

    @property
    def net_saved(self) -> float:
        """Tokens saved, as the calibration runs say, less those of audits and of trials."""
        return sum(one.net_saved for one in self.audits) - sum(stage.trial_tokens for stage in self.stages)

    @property
    def promised(self) -> AuditSummary | None:
        """The promise that stands now."""
        if not self.audits or self.audits[-1].alarm or (self.stages and self.stages[-1].promised is None):
            return None
        return self.audits[-1]

    def lines(self) -> list[str]:
        """What there is to say."""
        now = self.promised
        first = "no promise stands" if now is None else f"promised: {now.mode} in at most {now.risk} of the runs"
        found = [f"{first}; {self.seen} runs seen, {self.alarms} alarms, {self.net_saved:z.0f} tokens saved"]
        for number, stage in enumerate(self.stages, start=1):
            last = number == len(self.stages)
            made = "isn't made yet" if stage.promised is None else f"stood on {stage.promised} calibration runs"
            line = f"promise {stage.promise}: {stage.admitted} runs, {stage.fit} fit; it {made}; "
            line += f"{stage.trial_tokens} tokens of trials"
            found.append(f"{line}; {self.labelled} labelled, {self.waiting} wait" if last else line)
            if last and self.by_client and stage.promised is None:
                most = ", ".join(map(str, self.by_client[:8]))
                found.append(f"its runs by client: {most}; one that has its share waits for the others")
        for one in self.audits:
            found += [one.why, f"{one.admitted} runs, {one.waiting} audits under way, {one.exits} exits, "]
            found[-1] += f"{one.saved:z.0f} tokens saved as the calibration runs say, {one.tokens} spent on audits"
            if one.said:
                found.append(one.said)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "promised": None if self.promised is None else self.promised.to_dict(),
            "seen": self.seen,
            "alarms": self.alarms,
            "net_saved": self.net_saved,
            "promises": [one.to_dict() for one in self.audits],
            "learned": [{**asdict(stage), "plan": stage.plan is not None} for stage in self.stages],
            "labelled": self.labelled,
            "waiting": self.waiting,
            "by_client": list(self.by_client),
        }


def status_of(store: Store, *, learns: bool) -> StoreStatus:
    """What a store knows; it may be read while another process owns it. learns: it is a store of traffic."""
    audits = summaries(store)
    if not learns:
        return StoreStatus(audits, [])
    query = "SELECT id, fit, admitted, plan, promised, trial_tokens, seen FROM learned ORDER BY id"
    stages = [Stage(*row) for row in store.read(query)]  # type: ignore[arg-type]  # the table's types
    newest = stages[-1].promise if stages else 0
    query = "SELECT state, COUNT(*) FROM own_run WHERE promise = ? GROUP BY state"
    counts = {str(state): int(str(n)) for state, n in store.read(query, [newest])}
    query = "SELECT client, COUNT(*) FROM own_run WHERE promise = ? GROUP BY client ORDER BY COUNT(*) DESC"
    clients = [(str(name), int(str(n))) for name, n in store.read(query, [newest])]
    by_client = tuple(n for _, n in clients) if any(name for name, _ in clients) else ()
    return StoreStatus(audits, stages, counts.get("labelled", 0), counts.get("ended", 0), by_client)
