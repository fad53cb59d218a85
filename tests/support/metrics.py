"""Reading of the status listener, as monitoring programs do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.broker import RunningBroker


@dataclass(frozen=True)
class Scraped:
    """All samples of a page, with the value by name and labels."""

    samples: dict[str, dict[frozenset[tuple[str, str]], float]]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a name that have these labels; 0 without any."""
        wanted = set(labels.items())
        found = self.samples.get(name, {})
        return sum(value for key, value in found.items() if wanted <= key)

    @property
    def series(self) -> int:
        return sum(map(len, self.samples.values()))


def parsed(text: str) -> Scraped:
    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return Scraped(samples)


async def get(broker: RunningBroker, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.get(broker.daemon.listener("status").endpoint + path, headers=headers)


async def scrape(broker: RunningBroker) -> Scraped:
    answer = await get(broker, "/metrics")
    assert answer.status_code == 200
    return parsed(answer.text)


async def settled(broker: RunningBroker, name: str, value: float, **labels: str) -> Scraped:
    """Scrape until a metric has a value: what a client has received is counted a moment later."""
    while (found := await scrape(broker)).value(name, **labels) != value:
        pass
    return found


def series_of(scraped: Scraped, name: str) -> dict[Any, float]:
    return scraped.samples[name]
