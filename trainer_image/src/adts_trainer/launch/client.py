"""The follower's side of the wire: tells the lead's launcher a report, brings back its decision."""

from __future__ import annotations

import aiohttp
from pydantic import ValidationError

from adts_trainer.launch.messages import Decision, Report

ANSWER_SECONDS = 10.0
"""Bound of one exchange; the lead holds an answer back for less."""


class LeadUnavailableError(Exception):
    """The lead could not be asked, or refused; the message says which."""


class LeadClient:
    """Talks to one lead. Its name is resolved anew for each connection: a new pod may stand behind it."""

    def __init__(self, lead: str, token: str) -> None:
        self._url = f"http://{lead}/agreement"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=5.0),
            headers=headers,
        )

    async def tell(self, report: Report) -> Decision:
        """The lead's decision after this report. Raises LeadUnavailableError."""
        try:
            async with self._session.post(self._url, json=report.model_dump(by_alias=True, mode="json")) as response:
                body = await response.text()
        except (aiohttp.ClientError, OSError) as error:
            raise LeadUnavailableError(f"it cannot be reached ({error})") from error
        except TimeoutError:
            raise LeadUnavailableError(f"it did not answer within {ANSWER_SECONDS:g} s") from None
        if response.status != 200:
            raise LeadUnavailableError(f"it refuses us ({response.status}: {body[:300]})")
        try:
            return Decision.model_validate_json(body)
        except ValidationError:
            raise LeadUnavailableError(f"it is no launcher: it answered {body[:100]!r}") from None

    async def close(self) -> None:
        """Ends the connections."""
        await self._session.close()
