"""A change of a service that ends as a whole: the new one answers, or what served before is put back."""

from __future__ import annotations

from collections.abc import Sequence

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeApplicationSchema

from silverray.cluster.log.actor import describe_writer, stop_writer
from silverray.cluster.log.claim import read_claim, withdraw_claim
from silverray.cluster.serving.applications import belongs_to
from silverray.cluster.serving.instance import ServeInstance
from silverray.cluster.serving.readiness import Progress, Readiness, ServiceError, wait_until_ready
from silverray.cluster.signals import put_off_signals
from silverray.shard.snapshot.catalog import Catalog


class Change:
    """A service as it is, before anything of it is touched, and the way back.

    Args:
        instance: where the service runs.
        name: its name.
        catalog: of the version that it shall serve.

    Attributes:
        before: the applications that serve now, as they were declared; empty where none does.
    """

    def __init__(self, instance: ServeInstance, name: str, catalog: Catalog) -> None:
        self._instance = instance
        self._name = name
        self._store = catalog.path.parent
        self._seq = catalog.seq
        self.before = instance.declared(self._ours)
        self._had_writer = describe_writer(name) is not None
        self._had_claim = read_claim(self._store) is not None
        self._declared = False

    @property
    def tag(self) -> str | None:
        """Tag of the layout that serves now."""
        tags = [application.args["layout"] for application in self.before if "layout" in application.args]
        return str(tags[0]) if tags else None

    def declare(self, wanted: Sequence[ServeApplicationSchema]) -> None:
        """Begin to make the service be these applications."""
        # First: what is declared in part, as it fails, has to be undone as well.
        self._declared = True
        self._instance.declare(wanted, self._ours)

    def undo(self) -> None:
        """Declare what served before again, and take back what the change began; does not wait."""
        if self._declared:
            self._instance.declare(self.before, self._ours)
        if self._had_writer or (log := describe_writer(self._name)) is None:
            return
        # A log that holds writes stays the store's: they were acknowledged.
        if not self._had_claim and log.get("last", 0) <= self._seq:
            withdraw_claim(self._store)
        stop_writer(self._name)

    def put_back(self, tell: Progress) -> str:
        """Undo the change, and wait until what served before answers; a second signal ends the waiting.

        Args:
            tell: told what is being waited for.

        Returns:
            What became of it, in words.
        """
        served = f"what served before ({self.tag})"
        try:
            with put_off_signals():
                self.undo()
            if not self._declared:
                return f"{served} was not touched"
            readiness = Readiness(self._instance, self._name, self.tag)
            wait_until_ready(readiness, lambda what: tell(f"putting back {self.tag}: {what}"))
        except ServiceError as error:
            return f"{served} was put back, but does not answer: {error}"
        except KeyboardInterrupt:
            return f"{served} was put back; it was not waited for"
        except (RayError, RayServeException) as error:
            return f"{served} could not be put back: {type(error).__name__}"
        return f"{served} was put back and answers"

    def _ours(self, application: str) -> bool:
        return belongs_to(application, self._name)
