"""The cache of native code: read only where no other user can write, compiled again otherwise."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from wasmtime import Config, Engine, wat2wasm

from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy import instances, native
from verdictd_py.policy.engine import CompiledPolicy

CODE = bytes(wat2wasm('(module (func (export "f") (result i32) (i32.const 7)))'))
OTHER = bytes(wat2wasm('(module (func (export "f") (result i32) (i32.const 666)))'))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(code: bytes = CODE) -> bool:
    """Return whether the module was compiled instead of loaded from the cache."""
    engine = Engine(Config())
    reported: list[str] = []
    module = native.load(engine, code, reported.append)
    assert [export.name for export in module.exports] == ["f"]
    return bool(reported)


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Code as an image has it; the cache of the user is a file, so that it stores nothing."""
    (tmp_path / "cache").write_bytes(b"no directory")
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    place = tmp_path / "package"
    place.mkdir(mode=0o755)
    monkeypatch.setattr(native, "_PACKAGED", place)
    monkeypatch.setattr(native, "_ROOT", os.geteuid())  # these tests need not be root's
    return native.store_packaged(for_any_processor(), Engine(Config()), CODE)


def for_any_processor() -> Engine:
    config = Config()
    config.target = native.target()
    return Engine(config)


def stored(cache: Path) -> Path:
    (file,) = cache.iterdir()
    return file


def test_compiled_code_is_stored_for_its_user_and_loaded_again(cache: Path) -> None:
    assert load()
    assert (cache.stat().st_mode & 0o777, stored(cache).stat().st_mode & 0o777) == (0o700, 0o600)
    assert not load()
    assert load(OTHER)  # another module is not taken from the first one's file


def test_a_cache_directory_of_systemd_may_be_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DynamicUser=yes, /var/cache/NAME is a link to private/NAME."""
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("private")
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "link"))
    assert load()
    assert not load()


def test_a_user_without_a_home_directory_compiles_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user of DynamicUser=yes has none, and may be in no database of users."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert load()
    assert load()


@pytest.mark.parametrize("length", [0, 1, 31, 32, 1000, -1])
def test_a_truncated_file_is_compiled_again_and_replaced(cache: Path, length: int) -> None:
    load()
    whole = stored(cache).read_bytes()
    stored(cache).write_bytes(whole[:length])
    assert load()
    assert len(stored(cache).read_bytes()) == len(whole)
    assert not load()


def test_a_changed_byte_is_detected(cache: Path) -> None:
    load()
    content = bytearray(stored(cache).read_bytes())
    content[len(content) // 2] ^= 1
    stored(cache).write_bytes(content)
    assert load()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_can_write_is_not_used(cache: Path, mode: int) -> None:
    load()
    cache.chmod(mode)
    assert load()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_not_used(cache: Path, mode: int) -> None:
    load()
    stored(cache).chmod(mode)
    assert load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_not_used(cache: Path) -> None:
    load()
    os.chown(stored(cache), 1, 1)
    assert load()
    assert stored(cache).stat().st_uid == os.geteuid()
    os.chown(cache, 1, 1)
    assert load()


def test_another_users_directory_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as the test before without root: here the daemon is the other user."""
    load()
    assert not load()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert load()


def test_a_symbolic_link_is_not_followed(cache: Path, tmp_path: Path) -> None:
    load()
    file = stored(cache)
    (tmp_path / "elsewhere").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert load()
    assert not file.is_symlink()


def test_a_link_in_the_place_of_the_user_s_own_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load()
    assert not load()
    (tmp_path / "verdictd-py").rename(tmp_path / "moved")
    (tmp_path / "verdictd-py").symlink_to(tmp_path / "moved")
    assert load()


def test_a_named_pipe_does_not_block(cache: Path) -> None:
    load()
    file = stored(cache)
    file.unlink()
    os.mkfifo(file)
    assert load()


def test_a_cache_that_cannot_be_written_does_not_matter(cache: Path) -> None:
    cache.write_bytes(b"no directory")
    assert load()


@pytest.mark.parametrize("length", [0, 4, 9, -1])
def test_a_truncated_module_is_refused_with_one_line(cache: Path, length: int) -> None:
    damaged = CODE[:length]
    with pytest.raises(PolicyInvalid, match="install the package again") as caught:
        native.load(Engine(Config()), damaged, lambda _: None)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_module_that_is_another_program_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "_code", lambda: OTHER)
    monkeypatch.setattr(instances, "_LOADED", [])
    with pytest.raises(PolicyInvalid, match=r"is not the policy engine.*install the package again"):
        instances.prepare(lambda _: None)


def test_a_user_without_a_home_compiles_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an arbitrary user of a container has it: no HOME, and no entry in passwd."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    for variable in ("HOME", "XDG_CACHE_HOME", "CACHE_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert load()
    assert load()


def test_code_in_the_package_is_loaded_by_every_user(packaged: Path) -> None:
    assert packaged.stat().st_mode & 0o777 == 0o644
    assert not load()
    assert load(OTHER)


def test_code_in_the_package_is_the_same_whenever_it_is_compiled(packaged: Path) -> None:
    first = packaged.read_bytes()
    packaged.unlink()
    assert native.store_packaged(for_any_processor(), Engine(Config()), CODE) == packaged
    assert packaged.read_bytes() == first


def test_code_in_the_package_does_not_depend_on_the_processor(
    packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_processor", lambda: "flags: another")
    assert not load()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_code_in_the_package_that_others_can_write_is_not_used(packaged: Path, mode: int) -> None:
    packaged.chmod(mode)
    assert load()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_package_that_others_can_write_is_not_used(packaged: Path, mode: int) -> None:
    packaged.parent.chmod(mode)
    assert load()
    with pytest.raises(PermissionError, match="another user can write there"):
        native.store_packaged(for_any_processor(), Engine(Config()), CODE)


def test_code_in_the_package_of_another_user_than_root_is_not_used(
    packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of the broker's own user: a broker that was taken over must not persist there."""
    monkeypatch.setattr(native, "_ROOT", os.geteuid() + 1)
    assert load()


def test_only_root_s_code_in_the_package_is_used() -> None:
    assert native._ROOT == 0


def test_a_link_in_the_package_is_not_followed(packaged: Path) -> None:
    elsewhere = packaged.with_name("elsewhere")
    packaged.rename(elsewhere)
    packaged.symlink_to(elsewhere)
    assert load()


@pytest.mark.parametrize("length", [0, 31, 1000, -1])
def test_truncated_code_in_the_package_is_not_used(packaged: Path, length: int) -> None:
    packaged.write_bytes(packaged.read_bytes()[:length])
    assert load()


def test_code_in_the_package_that_the_loader_refuses_is_not_stored_silently(packaged: Path) -> None:
    other = Config()
    other.consume_fuel = True
    with pytest.raises(PolicyInvalid, match="cannot be loaded on this machine"):
        native.store_packaged(for_any_processor(), Engine(other), CODE)


def test_the_engine_for_any_processor_loads_and_decides(
    packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "_LOADED", [])
    instances.precompile()
    reported: list[str] = []
    instances.prepare(reported.append)
    assert not reported
    policy = CompiledPolicy.compile("package policy\nallow if input.a == 1", "{}")
    assert [policy.evaluate({"a": a}).allow for a in (1, 2)] == [True, False]
