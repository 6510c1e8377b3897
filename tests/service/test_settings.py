"""Every setting is read, bounded and documented from one table."""

from __future__ import annotations

from dataclasses import fields

import pytest
from click.testing import CliRunner

from service.__main__ import cli
from service.settings import SETTINGS, Settings, SettingsError, settings_table


def test_the_table_has_a_row_for_every_field_and_no_other() -> None:
    assert [s.name.lower() for s in SETTINGS] == [field.name for field in fields(Settings)]


def test_every_setting_is_documented_in_the_table_and_in_help(runner: CliRunner) -> None:
    table, shown = settings_table().splitlines(), runner.invoke(cli, ["--help"]).output
    for setting, row in zip(SETTINGS, table[2:], strict=True):
        assert row == f"| `{setting.name}` | `{setting.default}` | {setting.help} |"
        assert f"{setting.name} (default {setting.default})" in shown
    assert runner.invoke(cli, ["settings"]).output.splitlines() == table


def test_values_come_from_the_environment_and_empty_ones_count_as_not_set() -> None:
    settings = Settings.from_environment({"PORT": "80", "REQUIRE_GPU": "1", "MAX_BATCH": ""})
    assert (settings.port, settings.require_gpu, settings.max_batch) == (80, True, 0)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "0", "a whole number from 1 to 65535"),
        ("PORT", "65536", "a whole number from 1 to 65535"),
        ("PORT", "http", "a whole number from 1 to 65535"),
        ("PORT", "8_000", "a whole number from 1 to 65535"),
        ("PORT", " 8000", "a whole number from 1 to 65535"),
        ("PORT", "٨", "a whole number from 1 to 65535"),
        ("PORT", "9" * 5000, "a whole number from 1 to 65535"),
        ("PORT", "0" * 19 + "199999", "a whole number from 1 to 65535"),
        ("WEB_CONCURRENCY", "-1", "a whole number from 0 to 256"),
        ("MAX_BODY_BYTES", "10MB", "a whole number from 1 to"),
        ("MAX_PIXELS", "1e6", "a whole number from 1 to"),
        ("MAX_IMAGES", "0", "a whole number from 1 to"),
        ("MAX_BATCH", "-1", "a whole number from 0 to"),
        ("QUEUE_IMAGES", "0", "a whole number from 1 to"),
        ("DEADLINE_SECONDS", "0.5", "a whole number from 1 to"),
        ("MAX_REQUEST_PIXELS", "0", "a whole number from 1 to"),
        ("CORS_ORIGINS", "example.org", "origins like https://example.org"),
        ("CORS_ORIGINS", "https://example.org/", "origins like https://example.org"),
        ("CORS_ORIGINS", "https://Example.org", "origins like https://example.org"),
        ("CORS_ORIGINS", "https://a.org,*", "origins like https://example.org"),
        ("CORS_ORIGINS", "https://a.org,", "origins like https://example.org"),
        ("REQUIRE_GPU", "yes", "0 or 1"),
        ("GPU_MEMORY_LIMIT", "1", "a whole number from"),
        ("ORT_THREADS", "0", "a whole number from 1 to"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; allowed: {allowed}")


@pytest.mark.parametrize(
    "keys",
    ["a-key-too-short", "x" * 257, "sixteen letters!", "a-key-that-is-good,", "clé-" * 8],
)
def test_a_bad_key_is_refused_without_being_shown(keys: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"API_KEYS": keys})
    message = str(caught.value)
    assert message.startswith("API_KEYS is a value that is not shown here; allowed: keys of 16 to")
    assert keys not in message


def test_lists_are_separated_by_commas_and_none_is_the_empty_one() -> None:
    settings = Settings.from_environment(
        {"API_KEYS": "k" * 16 + ", " + "l" * 32, "CORS_ORIGINS": "https://a.org,http://[::1]:80"}
    )
    assert len(settings.api_keys) == 2
    assert settings.cors_origins == ("https://a.org", "http://[::1]:80")
    for empty in ("", "none"):
        settings = Settings.from_environment({"API_KEYS": empty, "CORS_ORIGINS": empty})
        assert (settings.api_keys, settings.cors_origins) == ((), ())


def test_the_settings_hold_no_key_that_could_be_printed() -> None:
    settings = Settings.from_environment({"API_KEYS": "a-key-that-nobody-sees"})
    assert "nobody" not in repr(settings)
    assert b"nobody" not in b"".join(settings.api_keys)
