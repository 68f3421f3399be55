"""Archives: members by place; what leads out, links, bombs and damage is refused."""

import io
import resource
import tarfile
import zipfile

import pytest

from data_pipelines import media
from data_pipelines.readers import archives, contents
from tests import helpers
from vlp_jax import errors


def _tar(path, entries):
  """entries: (name, bytes) or TarInfo."""
  with tarfile.open(path, "w") as out:
    for entry in entries:
      if isinstance(entry, tarfile.TarInfo):
        out.addfile(entry)
      else:
        info = tarfile.TarInfo(entry[0])
        info.size = len(entry[1])
        out.addfile(info, io.BytesIO(entry[1]))
  return path


def _zip(path, entries, method=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, "w", method) as out:
    for name, data in entries:
      out.writestr(name, data)
  return path


ENTRIES = [("a/one.txt", b"1" * 700), ("two.wav", b"RIFF"), ("empty", b"")]


@pytest.mark.parametrize("make", [_tar, _zip])
def test_members_are_read_by_place(tmp_path, make):
  at = make(tmp_path / f"x.{make.__name__[1:]}", ENTRIES)
  found = archives.members(at)
  assert {n: m.size for n, m in found.items()} == {n: len(d) for n, d in ENTRIES}
  for name, data in ENTRIES:
    assert archives.read(at, name) == data
    assert contents.source(tmp_path, at.name, name) == data
  with pytest.raises(media.MediaError, match="no member 'none'"):
    archives.read(at, "none")


def test_a_real_zip():
  at = helpers.shared("data/audio/fsdd/fsdd_idx00-24.zip")
  found = archives.members(at)
  assert len(found) == 1500
  with zipfile.ZipFile(at) as z:
    assert archives.read(at, "7_jackson_12.wav") == z.read("7_jackson_12.wav")


def _info(name, kind):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, "/etc/passwd"
  return info


BAD_NAMES = ["../out", "a/../../out", "/etc/passwd", "C:/x", "..\\out", "\\out"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("make", [_tar, _zip])
def test_names_that_lead_out(tmp_path, name, make):
  at = make(tmp_path / f"x.{make.__name__[1:]}", [("good", b"1"), (name, b"2")])
  with pytest.raises(errors.UserError, match="leads out of the archive") as error:
    archives.members(at)
  assert "\n" not in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == [at.name]


@pytest.mark.parametrize(
  "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar(tmp_path, kind):
  at = _tar(tmp_path / "x.tar", [("good", b"1"), _info("link", kind)])
  with pytest.raises(errors.UserError, match="link, a device or sparse"):
    archives.members(at)


def test_links_in_a_zip(tmp_path):
  link = zipfile.ZipInfo("link")
  link.external_attr = 0o120777 << 16
  at = _zip(tmp_path / "x.zip", [(link, b"/etc/passwd")])
  with pytest.raises(errors.UserError, match="link or device"):
    archives.members(at)


def test_bombs(tmp_path, monkeypatch):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  at = _zip(tmp_path / "bomb.zip", [("zeros", bytes(1 << 26))])
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(errors.UserError, match="expands from"):
    archives.members(at)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < 50_000
  assert grown - before < 400_000
  monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
  for make in (_tar, _zip):
    at = make(tmp_path / f"many.{make.__name__[1:]}", [(str(k), b"") for k in range(4)])
    with pytest.raises(errors.UserError, match="more than 3 members"):
      archives.members(at)


def test_a_zip_that_lies_about_sizes(tmp_path):
  data = bytearray(_zip(tmp_path / "x.zip", [("a", bytes(5000))]).read_bytes())
  for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the size, twice
    place = data.index(mark) + at
    data[place : place + 4] = (100).to_bytes(4, "little")
  (tmp_path / "lie.zip").write_bytes(data)
  assert archives.members(tmp_path / "lie.zip")["a"].size == 100
  with pytest.raises(media.MediaError):
    archives.read(tmp_path / "lie.zip", "a")


def test_damaged_and_packed_archives(tmp_path):
  data = _tar(tmp_path / "x.tar", [("a", b"1" * 5000), ("b", b"2")]).read_bytes()
  (tmp_path / "cut.tar").write_bytes(data[:3000])
  (tmp_path / "page.tar").write_text("<html>404</html>" * 100)
  (tmp_path / "page.zip").write_text("<html>404</html>" * 100)
  (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
  for name, message in (
    ("cut.tar", "cut off"),
    ("page.tar", "no readable archive"),
    ("page.zip", "no readable archive"),
    ("x.tar.gz", "Unpack it to a .tar"),
    ("none.zip", "No such file"),
  ):
    with pytest.raises(errors.UserError, match=message) as error:
      archives.members(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flipped_byte_in_a_member(tmp_path):
  at = _zip(tmp_path / "x.zip", [("a", bytes(range(256)) * 40)])
  data = bytearray(at.read_bytes())
  data[60] ^= 255
  (tmp_path / "y.zip").write_bytes(data)
  with pytest.raises(media.MediaError, match=r"y.zip: a"):
    archives.read(tmp_path / "y.zip", "a")


def test_contents_lie_below_the_root(tmp_path):
  (tmp_path / "root").mkdir()
  (tmp_path / "secret.mp4").write_bytes(b"1")
  (tmp_path / "root" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
  for path in ("../secret.mp4", "/etc/passwd", "link.mp4", "", "."):
    with pytest.raises(media.MediaError, match=r"below|no such"):
      contents.source(tmp_path / "root", path)


def test_base64_pictures(tmp_path):
  (tmp_path / "img_x.tsv").write_bytes(b"v0\tYWI=\tY2Q=\nv1\tZQ==\nv2\t%%%\n")
  assert contents.source(tmp_path, "img_x.tsv", "0") == [b"ab", b"cd"]
  assert contents.source(tmp_path, "img_x.tsv", "13") == [b"e"]
  with pytest.raises(media.MediaError, match="no base64"):
    contents.source(tmp_path, "img_x.tsv", "21")
