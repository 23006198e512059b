"""The notifier: for deadlines (in the triggerer), and for the callbacks of tasks and DAGs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseHook, BaseNotifier

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.notifications.errors import AlertConnectionError, AlertError, AlertNotSentError
from batch_provider.notifications.facts import AlertFacts, short_error
from batch_provider.notifications.message import Message, compose
from batch_provider.notifications.routes import Route, route_of

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

DEFAULT_CONN_ID: Final = "batch_alerts"
DEFAULT_NAME: Final = "batch SLA"

_Routes = dict[str, Route | str]
"""By connection id: where it leads, or why it leads nowhere."""


class BatchNotifier(BaseNotifier):
    """Sends an alert by e-mail or to a webhook, wherever Airflow connections say at that moment.

    Who is on call changes more often than a DAG: the DAG names a connection, an operator edits it in the Airflow UI,
    and the next alert goes to the new address. A connection of type `smtp` sends an e-mail, `http` posts JSON;
    docs/alerts.md has their fields. With several connections each is tried, whatever becomes of the others.

    As `on_failure_callback` and the like it never raises, it logs: an alert that cannot be sent must not fail the
    batch. For a deadline it raises at the end, so that the triggerer's log and the callback's state show it.

    Args:
        conn_id: the connection, or several.
        name: what the alert calls the deadline.
        message: a Jinja template for the first lines. It sees the context of the callback; `dag_run`, `dag_id` and
            `run_id` are there in all of them, `deadline` in a deadline's. A template that cannot be rendered is
            reported in the alert, which is sent all the same.
        context: for Airflow's use.

    Raises:
        InvalidOptionError: if there is no connection id, or the message is no Jinja template.
    """

    def __init__(
        self,
        conn_id: str | Sequence[str] = DEFAULT_CONN_ID,
        name: str = DEFAULT_NAME,
        message: str | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context=context)
        self.conn_ids = checked_conn_ids(conn_id)
        self.name = name
        self.message = _checked_template(message)

    def notify(self, context: Context) -> None:
        """Send the alert from a task or from the DAG processor; whatever goes wrong is logged, not raised."""
        try:
            routes = {conn_id: _route(conn_id) for conn_id in self.conn_ids}
            sending = self._send(context, routes)
            with ThreadPoolExecutor(1) as own_thread:  # the caller's may have an event loop running
                own_thread.submit(asyncio.run, sending).result()
        except AlertError as error:
            log.error("%s", error)
        except Exception:
            log.exception("The alert of %s could not be sent.", self.name)

    async def async_notify(self, context: Context) -> None:
        """Send the alert from the triggerer.

        Raises:
            AlertNotSentError: if one of the connections failed; the others have been served.
        """
        routes = {conn_id: await _async_route(conn_id) for conn_id in self.conn_ids}
        await self._send(context, routes)

    async def _send(self, context: Context, routes: _Routes) -> None:
        """Send to all routes at the same time, so that a dead mail server does not hold up the webhook."""
        from batch_provider.notifications.delivery import deliver

        message = self._compose(context)
        usable = {conn_id: route for conn_id, route in routes.items() if not isinstance(route, str)}
        problems = [route for route in routes.values() if isinstance(route, str)]
        outcomes = await asyncio.gather(*(deliver(route, message) for route in usable.values()), return_exceptions=True)
        ends = list(zip(usable, outcomes, strict=True))
        problems += [_described(conn_id, outcome) for conn_id, outcome in ends if outcome is not None]
        reached = [conn_id for conn_id, outcome in ends if outcome is None]
        if problems:
            raise AlertNotSentError(message.subject, reached, problems)
        log.info("Alert sent through %s: %s", ", ".join(reached), message.subject)

    def _compose(self, context: Context) -> Message:
        from batch_provider.airflow_compat import redact

        facts = AlertFacts.from_context(dict(context), _base_url())
        if facts.event == "dag_run" and facts.state == "failed":  # Airflow does not say why: the jobs' results do
            facts = replace(facts, error=_why_failed(facts))
        return compose(facts, self.name, self._lead(dict(context), facts), lambda text: str(redact(text)))

    def _lead(self, context: dict[str, Any], facts: AlertFacts) -> str | None:
        if self.message is None:
            return None
        try:
            environment = self.get_template_env(context.get("dag"))
            return str(self.render_template(self.message, _template_context(context, facts), environment)).strip()
        except Exception as error:  # noqa: BLE001 - a template of the author's can raise anything
            log.warning("The message template of %s cannot be rendered: %s", self.name, error)
            return f"(The message template cannot be rendered: {type(error).__name__}: {error})"


def checked_conn_ids(conn_id: str | Sequence[str]) -> list[str]:
    """Return the connection ids as a list without duplicates.

    Raises:
        InvalidOptionError: if there is none, or one is not a text.
    """
    given: list[Any] = [conn_id] if isinstance(conn_id, str) else list(conn_id)
    if not given or not all(isinstance(each, str) and each.strip() for each in given):
        raise InvalidOptionError("conn_id", conn_id, "the id of an Airflow connection, or a list of ids")
    return list(dict.fromkeys(given))


def _checked_template(message: str | None) -> str | None:
    from jinja2 import Environment, TemplateSyntaxError

    if message is None:
        return None
    try:
        Environment(autoescape=True).parse(message)
    except TemplateSyntaxError as error:
        raise InvalidOptionError("message", message, f"a Jinja template ({error})") from None
    return message


def _template_context(context: Mapping[str, Any], facts: AlertFacts) -> Any:
    """Give every context the same names; Airflow's REST form of a run, in a deadline's, has no `run_id`."""
    run = context.get("dag_run")
    same_run = {"dag_run": {**run, "run_id": facts.run_id}} if isinstance(run, Mapping) else {}
    return {**context, "dag_id": facts.dag_id, "run_id": facts.run_id, **same_run}


def _route(conn_id: str) -> Route | str:
    try:
        return route_of(conn_id, BaseHook.get_connection(conn_id))
    except Exception as error:  # noqa: BLE001 - a secrets backend can raise anything
        return _described(conn_id, error)


async def _async_route(conn_id: str) -> Route | str:
    try:
        return route_of(conn_id, await BaseHook.aget_connection(conn_id))
    except Exception as error:  # noqa: BLE001 - a secrets backend can raise anything
        return _described(conn_id, error)


def _described(conn_id: str, error: BaseException) -> str:
    """Say what went wrong; without the words of others, which may quote a connection with its password."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    if isinstance(error, AlertError):
        return str(error)
    found = isinstance(error, AirflowNotFoundException)
    reason = "Airflow knows no such connection." if found else f"unexpected {type(error).__name__}."
    return str(AlertConnectionError(conn_id, reason))


def _why_failed(facts: AlertFacts) -> str | None:
    """What the results of the run's jobs say, if they can be read from here; None: they say nothing of it."""
    from batch_provider import wiring

    try:
        stores = [s for s in wiring.catalog().instances(dag_id=facts.dag_id) if s.instance.run_id == facts.run_id]
        results = [result for store in stores if (result := store.result()) is not None and not result.is_successful]
    except Exception as error:  # noqa: BLE001 - the store may be out of reach, and the alert goes out all the same
        log.warning("The results of run %s cannot be read for the alert: %s", facts.run_id, error)
        return None
    return short_error("\n".join(f"{result.job}: {result.reason or result.state}" for result in results)) or None


def _base_url() -> str:
    from airflow.sdk import conf

    return str(conf.get("api", "base_url", fallback="") or "")
