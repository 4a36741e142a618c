"""Man pages: complete, and without a complaint of groff where there is one."""

from __future__ import annotations

import shutil
import subprocess

from manual.commands import tools
from manual.man import man_pages


def test_every_command_has_a_page_with_every_option() -> None:
    pages = man_pages("1.2")
    for tool in tools():
        for command in tool.walk():
            text = pages[f"{'-'.join(command.words)}.1"]
            assert text.startswith(".TH ")
            assert "attested-volumes 1.2" in text
            for argument in command.arguments:
                for flag in argument.flags:
                    assert f"\\fB{flag.replace('-', chr(92) + '-')}\\fR" in text
    assert ".SH EXIT STATUS" in pages["encfs.1"]
    assert "wrong_key" in pages["encfs.1"]


def test_no_line_of_text_is_taken_for_a_macro() -> None:
    known = {"TH", "SH", "PP", "TP", "B", "BR", "nf", "fi"}
    for name, text in man_pages("1.2").items():
        macros = {line.split()[0][1:] for line in text.splitlines() if line.startswith(".")}
        assert macros <= known, name


def test_groff_has_no_complaint() -> None:
    if (groff := shutil.which("groff")) is None:
        return
    text = "".join(man_pages("1.2").values())
    command = [groff, "-man", "-Tutf8", "-ww", "-z"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
