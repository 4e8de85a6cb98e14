"""Starting and ending Ray Serve, without it."""

from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

from silverray.cluster.serving import serve_life
from silverray.cluster.serving.instance import connect_ray
from silverray.cluster.serving.serve_life import ServeNotStarted, check_address, check_host, end_serve, start_serve
from silverray.cluster.strict_yaml import ConfigError


class Serve:
    """Ray Serve whose starts end as they are told to."""

    def __init__(self, *outcomes: BaseException | None) -> None:
        self.outcomes = list(outcomes)
        self.shut_down = 0

    def start(self, **options: Any) -> None:
        assert options == {"proxy_location": "HeadOnly"}
        if (outcome := self.outcomes.pop(0)) is not None:
            raise outcome

    def shutdown(self) -> None:
        self.shut_down += 1


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of actors that were killed; `proxy` and `mine` are what is left after Serve has shut down."""
    names: list[str] = []
    left = [{"name": "proxy", "namespace": "serve"}, {"name": "mine", "namespace": "else"}]
    left.append({"name": "just gone", "namespace": "serve"})

    def get_actor(name: str, namespace: str) -> str:
        if name == "just gone":
            raise ValueError
        return name

    monkeypatch.setattr(ray.util, "list_named_actors", lambda all_namespaces: left)
    monkeypatch.setattr(ray, "get_actor", get_actor)
    monkeypatch.setattr(ray, "kill", names.append)
    return names


def serve_with(monkeypatch: pytest.MonkeyPatch, *outcomes: BaseException | None) -> Serve:
    fake = Serve(*outcomes)
    monkeypatch.setattr(serve_life, "serve", fake)
    return fake


@pytest.mark.parametrize("slow", [ActorDiedError(), TimeoutError("HTTP proxies not available after 60s.")])
def test_a_slow_start_is_tried_again(slow: Exception, monkeypatch: pytest.MonkeyPatch, killed: list[str]) -> None:
    fake = serve_with(monkeypatch, slow, None)
    start_serve(proxy_location="HeadOnly")
    assert (fake.outcomes, fake.shut_down, killed) == ([], 0, [])


def test_a_start_that_fails_twice_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, killed: list[str]
) -> None:
    fake = serve_with(monkeypatch, ActorDiedError(), TimeoutError("HTTP proxies not available\nafter 60s."))
    with pytest.raises(ServeNotStarted) as caught:
        start_serve(proxy_location="HeadOnly")
    assert str(caught.value) == "Ray Serve did not start: TimeoutError: HTTP proxies not available"
    assert (fake.shut_down, killed) == (1, ["proxy"])


def test_an_interrupted_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch, killed: list[str]) -> None:
    fake = serve_with(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        start_serve(proxy_location="HeadOnly")
    assert (fake.shut_down, killed) == (1, ["proxy"])


def test_what_outlives_the_end_of_serve_is_killed(monkeypatch: pytest.MonkeyPatch, killed: list[str]) -> None:
    fake = serve_with(monkeypatch)
    monkeypatch.setattr(fake, "shutdown", lambda: (_ for _ in ()).throw(RayServeException("gone")))
    end_serve()
    assert killed == ["proxy"]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9", "127.0.0.1:99999"])
def test_an_address_where_nothing_listens_is_one_line(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect_ray(address)
    assert str(caught.value).startswith(f"address: expected a Ray cluster's HOST:PORT, got {address}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", [None, "auto", "ray://127.0.0.1:9"])
def test_other_forms_of_address_are_left_to_ray(address: str | None) -> None:
    check_address(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_is_refused_on_several_nodes(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"^http\.host: expected an address .* all 3 nodes .* got {host}: .*$"):
        check_host(host, 3)
    check_host(host, 1)
    check_host("0.0.0.0", 3)
