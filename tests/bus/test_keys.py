"""Key files: what is written, what is refused, what a person copies."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from cfbus.bus import keys
from cfbus.errors import KeyRefusedError, UnsafeError, UsageError

RAW_KEYS = st.binary(min_size=32, max_size=32)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[keys.KeyPair, Path]:
    pair, path = keys.generate(), tmp_path / "gpu.key_secret"
    keys.save(pair, path, "night gpu")
    return pair, path


def test_a_saved_pair_comes_back(saved: tuple[keys.KeyPair, Path]) -> None:
    pair, path = saved
    assert keys.load(path) == pair
    assert keys.load_public(path.with_suffix(".key")) == pair.public


def test_pyzmq_reads_both_files(saved: tuple[keys.KeyPair, Path]) -> None:
    pair, path = saved
    assert zmq.auth.load_certificate(path) == (pair.public, pair.secret)
    assert zmq.auth.load_certificate(path.with_suffix(".key")) == (pair.public, None)


def test_files_of_pyzmq_are_read(tmp_path: Path) -> None:
    public_file, secret_file = zmq.auth.create_certificates(tmp_path, "theirs", {"name": "x"})
    Path(secret_file).chmod(0o600)
    pair = keys.load(Path(secret_file))
    assert zmq.curve_public(pair.secret) == pair.public == keys.load_public(Path(public_file))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        keys.save(keys.generate(), tmp_path / "a.key_secret", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.key_secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o644


def test_the_secret_never_shows() -> None:
    pair = keys.generate()
    assert pair.secret.decode() not in repr(pair)
    assert pair.secret.decode() not in str(pair)
    assert pair.public.decode() in repr(pair)


def test_nothing_is_overwritten(saved: tuple[keys.KeyPair, Path]) -> None:
    pair, path = saved
    with pytest.raises(UsageError, match="exists already"):
        keys.save(keys.generate(), path, "other")
    assert keys.load(path) == pair


def test_a_taken_public_name_leaves_no_secret_behind(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text("somebody else's")
    with pytest.raises(UsageError, match="exists already"):
        keys.save(keys.generate(), tmp_path / "a.key_secret", "a")
    assert [each.name for each in tmp_path.iterdir()] == ["a.key"]


def test_a_link_in_the_place_of_a_new_key_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.key_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists already"):
        keys.save(keys.generate(), tmp_path / "a.key_secret", "a")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be made: No such file"):
        keys.save(keys.generate(), tmp_path / "no" / "a.key_secret", "a")


def test_the_suffix_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.key_secret"):
        keys.save(keys.generate(), tmp_path / "a.key", "a")


@pytest.mark.parametrize("name", ["", " a", "a\nsecret-key = x", "a\x1b[2J", "x" * 65])
def test_names_that_would_break_a_file_or_a_screen(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="printable"):
        keys.save(keys.generate(), tmp_path / "a.key_secret", name)
    assert not list(tmp_path.iterdir())


def test_missing_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        keys.load(tmp_path / "none.key_secret")
    assert "none.key_secret" in caught.value.message
    assert "cfbus init" in caught.value.hint
    assert "cfbus keygen" in caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_lax_files_are_refused(saved: tuple[keys.KeyPair, Path], mode: int) -> None:
    _, path = saved
    path.chmod(mode)
    with pytest.raises(UnsafeError) as caught:
        keys.load(path)
    assert f"chmod 600 {path}" in caught.value.hint
    assert caught.value.exit_code == 78


def test_what_systemd_lent_us_may_be_open_to_a_group(
    saved: tuple[keys.KeyPair, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, path = saved
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent / "other"))
    with pytest.raises(UnsafeError, match="chmod 600"):
        keys.load(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    if os.geteuid() == 0:  # the owner of all credentials
        assert keys.load(path) == pair
    for mode in (0o444, 0o460, 0o446):
        path.chmod(mode)
        with pytest.raises(UnsafeError):
            keys.load(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_files_are_taken(saved: tuple[keys.KeyPair, Path], mode: int) -> None:
    pair, path = saved
    path.chmod(mode)
    assert keys.load(path) == pair


def test_a_file_of_another_user(saved: tuple[keys.KeyPair, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(UnsafeError, match="another user"):
        keys.load(path)


def test_a_symbolic_link(saved: tuple[keys.KeyPair, Path], tmp_path: Path) -> None:
    _, path = saved
    link = tmp_path / "link.key_secret"
    link.symlink_to(path)
    with pytest.raises(UnsafeError, match="symbolic link"):
        keys.load(link)


def test_a_pipe_or_a_folder_is_an_error_and_no_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.key_secret", 0o600)
    (tmp_path / "folder.key_secret").mkdir(0o700)
    for name in ("pipe.key_secret", "folder.key_secret"):
        with pytest.raises(KeyRefusedError, match="not a file"):
            keys.load(tmp_path / name)


def test_halves_that_do_not_match(tmp_path: Path) -> None:
    mine, other = keys.generate(), keys.generate()
    path = tmp_path / "a.key_secret"
    keys.save(keys.KeyPair(other.public, mine.secret), path, "a")
    with pytest.raises(KeyRefusedError, match="do not belong together") as caught:
        keys.load(path)
    assert caught.value.exit_code == 77
    assert mine.secret.decode() not in str(caught.value)


def test_the_public_file_in_place_of_the_secret_one(saved: tuple[keys.KeyPair, Path]) -> None:
    _, path = saved
    with pytest.raises(KeyRefusedError, match="only the public half"):
        keys.load(path.with_suffix(".key"))


@given(data=st.data())
def test_a_damaged_file_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("keys") / "a.key_secret"
    keys.save(keys.generate(), path, "a")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + 1 :])
    try:
        pair = keys.load(path)
    except KeyRefusedError:
        return
    assert zmq.curve_public(pair.secret) == pair.public


@given(raw=RAW_KEYS, name=st.text(min_size=1, max_size=64).filter(lambda t: t.isprintable() and t == t.strip()))
def test_a_public_line_comes_back(raw: bytes, name: str) -> None:
    public = z85.encode(raw)
    line = keys.public_line(public, name)
    assert keys.parse_public_line(f"  {line}\n") == (public, name)
    assert line.split()[1].replace("-", "").replace("_", "").replace(".", "").isalnum()


@given(raw=RAW_KEYS, data=st.data())
def test_a_typo_in_a_public_line_is_seen(raw: bytes, data: st.DataObject) -> None:
    line = keys.public_line(z85.encode(raw), "n")
    start, end = line.index(" ") + 1, line.rindex(" ")
    at = data.draw(st.integers(start, end - 1))
    typo = data.draw(st.sampled_from("abcXYZ019-_.é").filter(lambda c: c != line[at]))
    with pytest.raises(UsageError, match="damaged in copying"):
        keys.parse_public_line(line[:at] + typo + line[at + 1 :])


def test_of_several_spellings_of_a_key_only_one_is_taken() -> None:
    # The last character of 32 bytes in base64 holds two bits that decode to nothing.
    line = keys.public_line(z85.encode(bytes(32)), "n")
    head, dot, tail = line.partition(".")
    assert head.endswith("A")
    for other in "BCD":
        with pytest.raises(UsageError, match="damaged in copying"):
            keys.parse_public_line(head[:-1] + other + dot + tail)


@pytest.mark.parametrize("cut", [15, 30, 55, 62])
def test_a_line_cut_off(cut: int) -> None:
    line = keys.public_line(keys.generate().public, "n")
    with pytest.raises(UsageError, match="damaged in copying"):
        keys.parse_public_line(line[:cut])


@pytest.mark.parametrize("line", ["", "ssh-ed25519 AAAA me", "cfbus-key2 x.y z"])
def test_a_line_that_is_none(line: str) -> None:
    with pytest.raises(UsageError, match="must begin with cfbus-key1"):
        keys.parse_public_line(line)


@given(st.text())
def test_any_text_is_a_line_or_a_sentence(text: str) -> None:
    for line in (text, f"cfbus-key1 {text}", f"cfbus-key1 {text} name"):
        with pytest.raises(UsageError):
            keys.parse_public_line(line)


def test_fingerprints_tell_keys_apart_and_are_safe_to_paste() -> None:
    one, two = keys.generate().public, keys.generate().public
    assert keys.fingerprint(one) == keys.fingerprint(one) != keys.fingerprint(two)
    assert keys.fingerprint(one).startswith("SHA256:")
    assert len(keys.fingerprint(one)) == len("SHA256:") + 43
    with pytest.raises(KeyRefusedError):
        keys.fingerprint(b"short")


@given(st.binary(max_size=45))
def test_raw_key_is_total(text: bytes) -> None:
    raw = keys.raw_key(text)
    assert raw is None or z85.encode(raw) == text


def test_what_the_largest_z85_spells_is_no_key() -> None:
    assert keys.raw_key(b"#" * 40) is None
    assert keys.raw_key(b'"' * 40) is None
