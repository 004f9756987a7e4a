"""Tars that are not as they should be, and flags: one line each, exit code 2, and nothing is left behind."""

import io
import re
import sys
import tarfile

import pytest

from finetune import console
from finetune.cli import main
from tests.finetune.imagenet.originals import (
    DEVKIT,
    META,
    TRAIN,
    TRUTH,
    VALIDATION,
    Originals,
    jpeg,
    link,
    md5sums,
    meta_mat,
    tar_bytes,
)

FIRST = "n01440764"


@pytest.fixture
def said(tmp_path, capsys, monkeypatch):
    """Run the command on a folder of tars, and return what it says of the mistake."""
    monkeypatch.setattr(console, "set_up", lambda stream: None)  # it would outlive this test

    def call(tars, *flags, output=tmp_path / "out"):
        arguments = ["--tars", tars, "--output", output, "--processes", 1, *(flags or ["--no-verify"])]
        before = sorted(tmp_path.rglob("*"))
        assert main(["prepare-imagenet", *map(str, arguments)]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line.removeprefix("error: ")

    return call


@pytest.fixture
def original():
    """To be changed."""
    return Originals(fewest=1, validation=5)


def inner(original, change):
    """Members of the train tar, with those of its first class changed by a function."""
    members = dict(original.train_members())
    images = list(original.images[FIRST])
    members[f"{FIRST}.tar"] = tar_bytes(change(images))
    return list(members.items())


UNSAFE = {
    "/etc/passwd": "has an unsafe path",
    "../n01440764_1.JPEG": "has an unsafe path",
    "a/../../b": "has an unsafe path",
    "n01440764_1.JPEG/..": "has an unsafe path",
    "readme.txt": r"\(a file\)",
    "sub/n01440764_9.JPEG": r"\(a file\)",
    "n01440764_9.JPEG.exe": r"\(a file\)",
    "n01440764_\u0661.JPEG": r"\(a file\)",  # a digit, but not one of ours
    "n01440764_9.JPEG\n": r"\(a file\)",
    "n02012849_9.JPEG": r"\(a file\)",  # an image of another class
}


@pytest.mark.parametrize(("name", "problem"), UNSAFE.items())
def test_names_in_a_class_tar(said, original, tmp_path, name, problem):
    train = inner(original, lambda images: [*images, (name, b"x")])
    message = said(original.write(tmp_path / "tars", train=train))
    assert re.match(rf"{TRAIN}/{FIRST}.tar: (unexpected )?member {re.escape(repr(name))} {problem}", message)
    assert "this is not the original tar: fetch it again" in message


@pytest.mark.parametrize("where", ["train", "validation"])
@pytest.mark.parametrize("name", ["/n01440764.tar", "../n01440764.tar", "readme.txt", "x/n01440764.tar"])
def test_names_in_the_outer_tars(said, original, tmp_path, where, name):
    members = {"train": original.train_members(), "validation": original.validation}[where]
    message = said(original.write(tmp_path / "tars", **{where: [*members, (name, b"x")]}))
    tar = TRAIN if where == "train" else VALIDATION
    assert re.match(rf"{tar}: (unexpected )?member {re.escape(repr(name))} (has an unsafe path|\(a file\))", message)


KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
}


@pytest.mark.parametrize(
    ("where", "kind", "words"),
    [
        (where, kind, words)
        for where in ("train", "class", "validation", "devkit")
        for kind, words in KINDS.items()
        if (where, kind) != ("devkit", tarfile.DIRTYPE)  # the devkit has folders
    ],
)
def test_members_that_are_no_files(said, original, tmp_path, where, kind, words):
    names = {"train": f"{FIRST}.tar", "class": f"{FIRST}_5.JPEG", "validation": "ILSVRC2012_val_00000009.JPEG"}
    member = (link(names.get(where, META), "/etc/passwd", kind), b"")
    if where == "devkit":
        tars = original.write(tmp_path / "tars", devkit=[*original.devkit_members(), member])
    elif where == "class":
        tars = original.write(tmp_path / "tars", train=inner(original, lambda images: [*images, member]))
    elif where == "train":
        tars = original.write(tmp_path / "tars", train=[*original.train_members(), member])
    else:
        tars = original.write(tmp_path / "tars", validation=[*original.validation, member])
    message = said(tars)
    tar = {"train": TRAIN, "class": f"{TRAIN}/{FIRST}.tar", "validation": VALIDATION, "devkit": DEVKIT}[where]
    assert message.startswith(tar)
    assert words in message
    assert repr(member[0].name) in message


def test_a_sparse_file(said, original, tmp_path):
    sparse = tarfile.TarInfo(f"{FIRST}_5.JPEG")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    train = inner(original, lambda images: [*images, (sparse, b"1\n0\n1\n".ljust(512, b"\0") + b"x")])
    assert "(a sparse file)" in said(original.write(tmp_path / "tars", train=train))


def test_a_member_that_is_there_twice(said, original, tmp_path):
    name = original.images[FIRST][0][0]
    train = inner(original, lambda images: [*images, (name, jpeg(1))])
    message = said(original.write(tmp_path / "tars", train=train))
    assert message.startswith(f"{TRAIN}/{FIRST}.tar: member {name!r} is there twice")


def test_a_class_that_is_there_twice(said, original, tmp_path):
    members = original.train_members()
    message = said(original.write(tmp_path / "tars", train=[*members, members[0]]))
    assert message.startswith(f"{TRAIN}: member {members[0][0]!r} is there twice")


def test_an_empty_class(said, original, tmp_path):
    message = said(original.write(tmp_path / "tars", train=inner(original, lambda images: [])))
    assert message.startswith(f"{TRAIN}/{FIRST}.tar holds no image: an empty class")


def test_an_empty_image(said, original, tmp_path):
    train = inner(original, lambda images: [*images, (f"{FIRST}_999.JPEG", b"")])
    message = said(original.write(tmp_path / "tars", train=train))
    assert message.startswith(f"{TRAIN}/{FIRST}.tar: member '{FIRST}_999.JPEG' is empty")


def test_a_class_tar_that_is_no_tar(said, original, tmp_path):
    members = dict(original.train_members()) | {f"{FIRST}.tar": b"no tar" * 1000}
    message = said(original.write(tmp_path / "tars", train=list(members.items())))
    assert message.startswith(f"{TRAIN}/{FIRST}.tar cannot be read, it is cut short or no tar (")


def test_a_class_that_the_devkit_does_not_know(said, original, tmp_path):
    members = [*original.train_members(), ("n99999999.tar", tar_bytes([("n99999999_1.JPEG", b"x")]))]
    message = said(original.write(tmp_path / "tars", train=members))
    assert message.startswith(f"{TRAIN}: 'n99999999.tar' is of a WordNet id that {DEVKIT} does not know")


def test_a_class_that_the_tar_lacks(said, original, tmp_path):
    message = said(original.write(tmp_path / "tars", train=original.train_members()[1:]))
    assert message.startswith(f"{TRAIN} has no tar of n03126707, which {DEVKIT} lists")


def cut(tars, name, where):
    path = tars / name
    content = path.read_bytes()
    path.write_bytes(content[:where] if isinstance(where, int) else content[: where(content)])
    return tars


def end(content):
    """Where the last member's data, with its padding, ends."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        last = tar.getmembers()[-1]
        return last.offset_data + -(-last.size // 512) * 512


@pytest.mark.parametrize("name", [TRAIN, VALIDATION])
@pytest.mark.parametrize(
    "where",
    [0, 300, 5000, lambda content: end(content) - 600, end, lambda content: end(content) - 1],
    ids=["empty", "in the first header", "in the middle", "in the last member", "after it", "in its padding"],
)
def test_tars_that_are_cut_short(said, original, tmp_path, name, where):
    message = said(cut(original.write(tmp_path / "tars"), name, where))
    assert re.match(rf"{name}.* cut short or (damaged at byte \d+|no tar \()", message)


def test_a_tar_that_is_cut_between_two_members(said, original, tmp_path):
    """tarfile takes this for the end."""
    message = said(cut(original.write(tmp_path / "tars"), VALIDATION, lambda content: end(content) // 2 // 512 * 512))
    assert re.match(rf"{VALIDATION}.* cut short", message)
    with tarfile.open(fileobj=io.BytesIO(tar_bytes(original.validation))) as tar:
        third = tar.getmembers()[2].offset
    message = said(cut(original.write(tmp_path / "tars"), VALIDATION, third))
    assert message.startswith(f"{VALIDATION} is cut short or damaged at byte {third}: no end of archive")


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_a_damaged_header(said, original, tmp_path, which):
    """tarfile takes this for the end too, and would lose what follows."""
    tars = original.write(tmp_path / "tars")
    content = bytearray((tars / TRAIN).read_bytes())
    with tarfile.open(tars / TRAIN) as outer:
        second = outer.getmembers()[1]
        assert second.name == f"{FIRST}.tar"
        with tarfile.open(fileobj=outer.extractfile(second)) as tar:
            place = second.offset if which == "outer" else second.offset_data + tar.getmembers()[1].offset
    content[place] ^= 1
    (tars / TRAIN).write_bytes(content)
    tar = TRAIN if which == "outer" else f"{TRAIN}/{FIRST}.tar"
    assert re.match(rf"{tar} is cut short or damaged at byte \d+", said(tars))


@pytest.mark.parametrize("cut_at", [0, 20, -30])
def test_a_devkit_that_is_cut_short(said, original, tmp_path, cut_at):
    tars = original.write(tmp_path / "tars")
    content = (tars / DEVKIT).read_bytes()
    message = said(cut(tars, DEVKIT, cut_at if cut_at >= 0 else len(content) + cut_at))
    assert message.startswith(f"{DEVKIT} cannot be read, it is cut short or no tar (")


def test_too_many_and_too_few_validation_images(said, original, tmp_path):
    message = said(original.write(tmp_path / "tars", validation=original.validation[:-1]))
    assert message.startswith(f"{VALIDATION} holds 4 images, but {DEVKIT} lists 5 labels")
    more = [*original.validation, ("ILSVRC2012_val_00000006.JPEG", b"x")]
    message = said(original.write(tmp_path / "tars", validation=more))
    assert message.startswith(f"{VALIDATION} holds 6 images, but {DEVKIT} lists 5 labels")


def test_a_gap_in_the_numbers_of_the_validation_images(said, original, tmp_path):
    images = [*original.validation[1:], ("ILSVRC2012_val_00000006.JPEG", b"x")]
    message = said(original.write(tmp_path / "tars", validation=images))
    assert message.startswith(f"{VALIDATION} lacks ILSVRC2012_val_00000002.JPEG;")


@pytest.mark.parametrize("line", ["13", "0", "-1", "1.0", "", "tench"])
def test_labels_that_are_no_class(said, original, tmp_path, line):
    original.truth[2] = line  # 13 is a synset with children
    message = said(original.write(tmp_path / "tars"))
    expected = f"{TRUTH.partition('/')[2]}, line 3: expected the ILSVRC2012_ID of one of 12 classes, got {line!r}"
    assert message.startswith(f"{DEVKIT}: {expected}")


def replaced(original, name, content):
    return [(n, content if n == name else c) for n, c in original.devkit_members()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no mat", r"data/meta.mat cannot be read \(\w+: .*\); expected `synsets` with ILSVRC2012_ID, WNID, words"),
        (b"", r"data/meta.mat cannot be read \("),
        (meta_mat([]), r"data/meta.mat (cannot be read \(|lists 0 classes, expected at least 2)"),
        (meta_mat([(1.0, "n00000001", "a", "", 0.0, [], 0.0)]), "data/meta.mat lists 1 classes, expected at least 2"),
        (meta_mat([(1.0, "../../etc", "a", "", 0.0, [], 0.0)]), r"data/meta.mat cannot be read \(ValueError: '../../e"),
        (
            meta_mat([(float(n), "n00000001", "a", "", 0.0, [], 0.0) for n in (1, 2)]),
            "data/meta.mat lists n00000001 twice",
        ),
        (
            meta_mat([(1.0, f"n0000000{n}", "a", "", 0.0, [], 0.0) for n in (1, 2)]),
            "data/meta.mat lists 1 twice",
        ),
    ],
)  # fmt: skip
def test_a_meta_mat_that_is_none(said, original, tmp_path, content, message):
    tars = original.write(tmp_path / "tars", devkit=replaced(original, META, content))
    assert re.match(f"{DEVKIT}: {message}", said(tars))


def test_a_devkit_without_its_files(said, original, tmp_path):
    kept = [member for member in original.devkit_members() if member[0] not in (META, TRUTH)]
    message = said(original.write(tmp_path / "tars", devkit=kept))
    expected = "has no data/meta.mat and no data/ILSVRC2012_validation_ground_truth.txt"
    assert message.startswith(f"{DEVKIT} {expected}")


def test_a_devkit_with_its_files_twice(said, original, tmp_path):
    members = original.devkit_members()
    message = said(original.write(tmp_path / "tars", devkit=[*members, members[-1]]))
    assert message.startswith(f"{DEVKIT}: member {TRUTH!r} is there twice")


def test_without_scipy_the_extra_is_named(said, original, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert "pip install 'resnest-timm[imagenet]'" in said(original.write(tmp_path / "tars"))


# --- checksums -------------------------------------------------------------------------------------------------------


def test_tars_that_are_not_the_official_ones(said, original, tmp_path):
    tars = original.write(tmp_path / "tars")
    found = md5sums(tars).splitlines()[2].split()[0]
    message = said(tars, "--verify")
    assert message.startswith(
        f"{DEVKIT} is not the expected file: its MD5 sum is {found}, expected fa75699e90414af021442c21a62c3abf. "
    )
    assert "--checksums FILE or --no-verify" in message


@pytest.mark.parametrize("name", [TRAIN, VALIDATION, DEVKIT])
def test_each_tar_is_compared(said, original, tmp_path, name):
    tars = original.write(tmp_path / "tars")
    (tmp_path / "sums").write_text(md5sums(tars))
    content = bytearray((tars / name).read_bytes())
    content[-1] ^= 1
    (tars / name).write_bytes(content)
    assert said(tars, "--checksums", tmp_path / "sums").startswith(f"{name} is not the expected file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--checksums: cannot read .*sums: .*No such file"),
        (b"\xff\xfe", "--checksums: cannot read .*sums: .*utf-8"),
        (b"12345  name\n", r"--checksums: .*sums: expected md5sum's lines, `HASH  NAME`, got '12345  name'"),
        (b"0" * 32 + b"  " + TRAIN.encode(), f"--checksums: .*sums has no line for {VALIDATION}, {DEVKIT}: add it"),
    ],
)
def test_files_of_checksums(said, original, tmp_path, text, message):
    if text is not None:
        (tmp_path / "sums").write_bytes(text)
    assert re.match(message, said(original.write(tmp_path / "tars"), "--checksums", tmp_path / "sums"))


# --- flags and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes", 0], "--processes must be at least 1, got 0"),
        (["--shard-size", 0], "--shard-size must be above 0, in megabytes, got 0.0"),
        (["--shard-size", "nan"], "--shard-size must be above 0, in megabytes, got nan"),
        (["--checksums", "x", "--no-verify"], "--checksums and --no-verify cannot go together"),
        (["--shard-sise", 3], "unknown flag --shard-sise; did you mean --shard-size"),
        (["--shard-size", "big"], "--shard-size must be FLOAT, got 'big'"),
    ],
)
def test_flags(said, tmp_path, flags, message):
    assert said(tmp_path, *flags).startswith(message)


def test_both_folders_must_be_given(capsys):
    assert main(["prepare-imagenet"]) == 2
    assert capsys.readouterr().err == (
        "error: --tars, --output must be given; see python -m finetune prepare-imagenet --help\n"
    )


def test_missing_tars(said, original, tmp_path):
    tars = original.write(tmp_path / "tars")
    (tars / TRAIN).unlink()
    assert said(tars).startswith(f"--tars: {tars} lacks {TRAIN}; expected {TRAIN}, {VALIDATION} and {DEVKIT}")
    (tars / DEVKIT).unlink()
    assert said(tars).startswith(f"--tars: {tars} lacks {TRAIN} and {DEVKIT}; ")
    assert said(tmp_path / "nowhere").startswith(f"--tars: {tmp_path}/nowhere lacks ")


def test_output_folders_that_hold_something_else(said, original, tmp_path):
    tars = original.write(tmp_path / "tars")
    message = f"--output: {tars} is neither empty nor a dataset of this command: give another folder"
    assert said(tars, "--no-verify", output=tars) == message
    file = tars / DEVKIT
    assert said(tars, "--no-verify", output=file).startswith(f"--output: {file} is neither empty nor")
    assert said(tars, "--no-verify", output=file / "below").startswith(f"--output: cannot make {file}/below: Not a dir")


def test_an_empty_folder_will_do(original, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "set_up", lambda stream: None)
    (tmp_path / "out").mkdir()
    arguments = ["--tars", original.write(tmp_path / "tars"), "--output", tmp_path / "out", "--no-verify"]
    assert main(["prepare-imagenet", *map(str, arguments)]) == 0
    assert (tmp_path / "out" / "README.md").is_file()


def test_help(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["prepare-imagenet", "--help"])
    text = capsys.readouterr().out
    for name in ("--tars", "--output", "--processes", "--shard-size", "--verify", "--no-verify", "--checksums"):
        assert name in text
    assert "None" not in text
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert "prepare-imagenet" in capsys.readouterr().out
