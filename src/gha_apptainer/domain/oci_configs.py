"""An image's configuration JSON, OCI's or Docker's, read to the part that says how to run it.

https://github.com/opencontainers/image-spec/blob/main/config.md; `Healthcheck` and `ArgsEscaped` are Docker's own
(https://github.com/moby/docker-image-spec), with times in nanoseconds. Unknown keys are other people's and are ignored;
a known key of a wrong type makes the whole document untrusted, because guessing would run the wrong command.
"""

from __future__ import annotations

from gha_apptainer.domain.errors import Untrusted
from gha_apptainer.domain.images import Health, OciConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Tuple

_NANOSECONDS = 1e9


def parse_config(data: bytes) -> OciConfig:
    """The configuration in a config blob. Raises Untrusted where it is no image configuration."""
    return config_from_plain(load_object(data, "image configuration"))


def platform_of(data: bytes) -> Tuple[str, str, str]:
    """Operating system, architecture and variant that a config blob states; empty text where it does not say."""
    raw = load_object(data, "image configuration")
    return _text(raw, "os"), _text(raw, "architecture"), _text(raw, "variant")


def load_object(data: bytes, what: str) -> Mapping[str, object]:
    """A JSON object, or Untrusted naming `what`."""
    try:
        import json

        raw = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise Untrusted("%s is not JSON: %s" % (what, error)) from error
    if not isinstance(raw, dict):
        raise Untrusted("%s is not a JSON object" % what)
    return raw


def config_from_plain(raw: Mapping[str, object]) -> OciConfig:
    """As parse_config, from parsed JSON; takes the whole document or only its `config` object (as a SIF holds it)."""
    inner = raw.get("config", raw if "rootfs" not in raw else None)
    if inner is None:
        return OciConfig()
    if not isinstance(inner, dict):
        raise Untrusted("image configuration: config is not an object")
    return OciConfig(
        entrypoint=_command(inner, "Entrypoint"),
        cmd=_command(inner, "Cmd"),
        env=_env(inner),
        user=_text(inner, "User"),
        workdir=_text(inner, "WorkingDir"),
        volumes=_keys(inner, "Volumes"),
        ports=_keys(inner, "ExposedPorts"),
        stop_signal=_text(inner, "StopSignal"),
        healthcheck=_health(inner.get("Healthcheck")),
        labels=_labels(inner),
        shell=_texts(inner, "Shell"),
        onbuild=_texts(inner, "OnBuild"),
    )


def config_plain(config: OciConfig) -> Dict[str, object]:
    """The `config` object of an image's document, as parse_config reads it; what is empty is left out."""
    health = config.healthcheck
    found: Dict[str, object] = {
        "User": config.user,
        "ExposedPorts": {name: {} for name in config.ports},
        "Env": ["%s=%s" % pair for pair in config.env],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Volumes": {name: {} for name in config.volumes},
        "WorkingDir": config.workdir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Shell": list(config.shell),
        "OnBuild": list(config.onbuild),
    }
    if health is not None:
        times = {"Interval": health.interval, "Timeout": health.timeout, "StartPeriod": health.start_period}
        check: Dict[str, object] = {"Test": list(health.test)}
        check.update({name: int(value * _NANOSECONDS) for name, value in times.items() if value})
        if health.retries:
            check["Retries"] = health.retries
        found["Healthcheck"] = check
    return {name: value for name, value in found.items() if value}


def _wrong(key: str, wanted: str) -> Untrusted:
    return Untrusted("image configuration: %s is not %s" % (key, wanted))


def _text(raw: Mapping[str, object], key: str) -> str:
    found = raw.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise _wrong(key, "text")
    return found


def _texts(raw: Mapping[str, object], key: str) -> Tuple[str, ...]:
    found = raw.get(key)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise _wrong(key, "a list of texts")
    return tuple(found)


def _command(raw: Mapping[str, object], key: str) -> Tuple[str, ...]:
    found = raw.get(key)
    if isinstance(found, str):  # very old images; Docker runs such a text through a shell
        return ("/bin/sh", "-c", found) if found else ()
    return _texts(raw, key)


def _env(raw: Mapping[str, object]) -> Tuple[Tuple[str, str], ...]:
    found: Dict[str, str] = {}
    for item in _texts(raw, "Env"):
        name, sign, value = item.partition("=")
        if name and sign:
            found[name] = value  # a later one wins, in the place of the first
    return tuple(found.items())


def _keys(raw: Mapping[str, object], key: str) -> Tuple[str, ...]:
    found = raw.get(key)
    if found is None:
        return ()
    if isinstance(found, list) and all(isinstance(item, str) for item in found):
        return tuple(found)
    if not isinstance(found, dict):
        raise _wrong(key, "an object")
    return tuple(found)


def _labels(raw: Mapping[str, object]) -> Tuple[Tuple[str, str], ...]:
    found = raw.get("Labels")
    if found is None:
        return ()
    if not isinstance(found, dict):
        raise _wrong("Labels", "an object")
    pairs: List[Tuple[str, str]] = []
    for name, value in found.items():
        if not isinstance(value, str):
            raise _wrong("Labels", "an object of texts")
        pairs.append((name, value))
    return tuple(pairs)


def _health(raw: object) -> Optional[Health]:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise _wrong("Healthcheck", "an object")
    test = _command(raw, "Test")
    if not test:
        return None  # Docker: inherit, and there is nothing to inherit from here
    return Health(
        test=test,
        interval=_seconds(raw, "Interval"),
        timeout=_seconds(raw, "Timeout"),
        start_period=_seconds(raw, "StartPeriod"),
        retries=int(_number(raw, "Retries")),
        start_interval=_seconds(raw, "StartInterval"),
    )


def _seconds(raw: Mapping[str, object], key: str) -> float:
    return _number(raw, key) / _NANOSECONDS


def _number(raw: Mapping[str, object], key: str) -> float:
    found = raw.get(key)
    if found is None:
        return 0.0
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found < 0:
        raise _wrong("Healthcheck." + key, "a number of nanoseconds" if key != "Retries" else "a number")
    return float(found)
