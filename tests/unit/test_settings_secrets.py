"""Keys, and addresses that need one: from the environment alone, never shown, never guessable."""

from __future__ import annotations

from pathlib import Path

import pytest
from settings_file import load, template

from flywheel.contracts.addresses import LOOPBACK_NAMES, own_names
from flywheel.errors import ConfigurationError

KEY, OTHER = "a-key-of-sixteen", "another-key-of-more"


def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = template().replace("[gateway]", '[gateway]\napi_keys = ["s3cret-value"]')
    with pytest.raises(ConfigurationError, match="FLYWHEEL_GATEWAY_API_KEYS") as caught:
        load(tmp_path, text)
    assert "s3cret-value" not in str(caught.value)


def test_secrets_from_the_environment_never_show(tmp_path: Path) -> None:
    settings = load(tmp_path, template(), FLYWHEEL_CONSOLE_API_KEYS=f"{KEY}, {OTHER} ")
    assert settings.console.keys == (KEY, OTHER)
    assert KEY not in repr(settings)
    assert KEY not in str(settings.model_dump())


@pytest.mark.parametrize(
    "variable",
    ["FLYWHEEL_GATEWAY_API_KEYS", "FLYWHEEL_CONSOLE_API_KEYS", "FLYWHEEL_METRICS_KEY"],
)
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (" ", "blank key"),
        ("x", "at least"),
        ("fifteen-letters", "16"),
        ("a key with spaces in it", "without spaces"),
        ("a-key-with-ümläuts", "ASCII"),
    ],
)
def test_a_key_that_could_be_guessed_or_not_be_sent_is_refused(
    tmp_path: Path, variable: str, keys: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        load(tmp_path, template(), **{variable: keys})
    assert caught.value.key == variable
    assert keys not in str(caught.value) or len(keys) < 2


@pytest.mark.parametrize("keys", [",", f"{KEY},", f",{KEY}", f"{KEY}, ,{OTHER}"])
def test_a_blank_key_among_others_is_refused(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ConfigurationError, match="FLYWHEEL_GATEWAY_API_KEYS: it holds a blank"):
        load(tmp_path, template(), FLYWHEEL_GATEWAY_API_KEYS=keys)


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    empty = {"FLYWHEEL_GATEWAY_API_KEYS": "", "FLYWHEEL_METRICS_KEY": ""}
    settings = load(tmp_path, template(), **empty)
    assert settings.gateway.keys == settings.monitoring.metrics_keys == ()


@pytest.mark.parametrize("section", ["gateway", "console"])
def test_an_open_address_needs_credentials(tmp_path: Path, section: str) -> None:
    before, after = template().split(f"[{section}]")
    text = before + f"[{section}]" + after.replace('host = "127.0.0.1"', 'host = "0.0.0.0"', 1)
    variable = f"FLYWHEEL_{section.upper()}_API_KEYS"
    with pytest.raises(ConfigurationError, match=variable):
        load(tmp_path, text)
    assert not getattr(load(tmp_path, text, **{variable: KEY}), section).loopback


@pytest.mark.parametrize(
    ("host", "keys", "allowed", "names"),
    [
        ("127.0.0.1", False, (), LOOPBACK_NAMES),
        ("::1", False, (), LOOPBACK_NAMES),
        ("127.0.0.1", False, ("Box.lan",), LOOPBACK_NAMES | {"box.lan"}),
        ("127.0.0.1", True, (), None),
        ("0.0.0.0", True, ("models.example",), LOOPBACK_NAMES | {"models.example"}),  # noqa: S104
        ("0.0.0.0", False, (), None),  # noqa: S104
    ],
)
def test_the_names_that_a_listener_answers_to(host, keys, allowed, names) -> None:
    assert own_names(host, keys=keys, allowed=allowed) == names
