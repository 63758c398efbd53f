"""The helper that runs guides sees what is wrong with them."""

import pytest

from tests.helpers.guide import blocks_of, differing_lines, main, pictures_of, run_guide, with_output

GUIDE = """# A guide

```python
x = 2
```

```python
print("x is", x, "and", x / 3)
```

```text
x is 2 and 0.6667
```

<!-- guide: skip -->
```python
raise RuntimeError("not run")
```

<!-- guide: within=0.5 ignore=\\d+$ -->
```text
```

```sh
not python
```
"""


@pytest.fixture
def guide(tmp_path):
    def write(text):
        path = tmp_path / "guide.md"
        path.write_text(text)
        return path

    return write


def test_blocks_with_lines_and_remarks():
    blocks = blocks_of(GUIDE)
    assert [(block.kind, block.line) for block in blocks] == [
        ("python", 4),
        ("python", 8),
        ("text", 12),
        ("python", 17),
        ("text", 22),
        ("sh", 25),
    ]
    assert [block.remark for block in blocks][3] == "skip"
    assert (blocks[4].within, blocks[4].ignore) == (0.5, r"\d+$")
    assert (blocks[2].within, blocks[2].ignore) == (None, None)


def test_blocks_share_a_namespace_and_output_is_compared(guide):
    assert run_guide(guide(GUIDE)).differences() == []
    wrong = run_guide(guide(GUIDE.replace("0.6667", "0.6657"))).differences()
    assert wrong == ["line 12: shown 'x is 2 and 0.6657', printed 'x is 2 and 0.6666666666666666'"]


def test_output_that_is_not_shown_is_an_error(guide):
    with pytest.raises(ValueError, match=r"guide.md:8: printed, but shown nowhere: 'x is"):
        run_guide(guide(GUIDE.replace("```text", "```other")))


def test_a_guide_goes_on_from_another(guide, tmp_path):
    (tmp_path / "first.md").write_text("```python\nx = 2\nprint('not compared')\n```\n\n```text\nwhatever\n```\n")
    second = "# On\n\n<!-- guide: after=first.md -->\n```python\nprint(x + 1)\n```\n\n```text\n{}\n```\n"
    assert run_guide(guide(second.format(3))).differences() == []
    assert run_guide(guide(second.format(4))).differences() == ["line 9: shown '4', printed '3'"]
    with pytest.raises(NameError):
        run_guide(guide(second.format(3).replace("after=", "skip=")))


def test_errors_name_the_guide_and_its_line(guide):
    path = guide(GUIDE.replace("x / 3", "x / 0"))
    with pytest.raises(ZeroDivisionError) as error:
        run_guide(path)
    last = error.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(path), 8)


@pytest.mark.parametrize(
    ("shown", "printed", "within", "ignore"),
    [
        ("acc  0.91", "acc 0.92", None, None),
        ("acc 0.91 ± 0.02", "acc 0.94 ± 0.01", 0.03, None),
        ("a\n---  -----\nb", "a\n----  --\nb\n\n", None, None),
        ("Measured(#1a2b3c4d)", "Measured(#ffffffff)", None, None),
        ("acc 0.5 chip 17", "acc 0.5 chip 4", None, r"\d+$"),
        ("1.5e-3", "1.6e-3", None, None),
        ("-0.01", "0.01", 0.03, None),
    ],
)
def test_what_counts_as_the_same(shown, printed, within, ignore):
    assert differing_lines(shown, printed, within, ignore) == []


@pytest.mark.parametrize(
    ("shown", "printed", "within", "row"),
    [
        ("acc 0.91", "acc 0.93", None, 0),
        ("acc 0.91", "acc 0.95", 0.03, 0),
        ("400 chips", "401 chips", 0.5, 0),
        ("a\nacc 0.9", "a\nAcc 0.9", 0.5, 1),
        ("a", "a\nb", None, 1),
        ("a\nb", "a", None, 1),
        ("1.5e-3", "1.7e-3", None, 0),
        ("0.9", "nan", 0.5, 0),
    ],
)
def test_what_counts_as_different(shown, printed, within, row):
    assert [line for line, _, _ in differing_lines(shown, printed, within)] == [row]


def test_update_writes_output_and_pictures(guide, tmp_path):
    stale = GUIDE.replace("x is 2 and 0.6667", "something else\nentirely") + "\n![A plot](images/plot.png)\n"
    path = guide(stale.replace("x = 2", "x = 2\nopen('plot.png', 'w').write('a picture')"))
    (tmp_path / "images").mkdir()
    main(path)
    text = path.read_text()
    assert "```text\nx is 2 and 0.6666666666666666\n```" in text
    assert run_guide_in(tmp_path, path).differences() == []
    assert pictures_of(text) == ["images/plot.png"]
    assert (tmp_path / "images" / "plot.png").read_text() == "a picture"
    assert with_output(text, run_guide_in(tmp_path, path)) == text


def test_update_asks_for_pictures_that_are_not_saved(guide):
    with pytest.raises(ValueError, match=r"no block saved plot\.png"):
        main(guide(GUIDE + "\n![A plot](images/plot.png)\n"))


def run_guide_in(folder, path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_guide(path)
