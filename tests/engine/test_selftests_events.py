"""What the kernel's own tests ask of probe definitions, as laws.

They are kprobe_eventname.tc, kprobe_syntax_errors.tc, kretprobe_maxactive.tc and profile.tc of
v6.1.
"""

from __future__ import annotations

import errno

import pytest

from arch_x86.lab.run import ExecOptions, run_image
from engine.core.profiles import LINUX_2010
from engine.errors import InputError, KprobeError
from engine.image import Symbol
from engine.syntax.arguments import parse_argument
from engine.syntax.kprobe_events import parse_spec, refuse_ambiguous
from tests.conftest import BASE, asm_image
from tests.engine.conftest import TARGETS
from tests.engine.guests import case, elf

LONG = "a" * 64


def run(specs, profile, pool, *, optimize: bool = True):
    return run_image(
        asm_image(*TARGETS),
        "f",
        (),
        [parse_spec(s) for s in specs],
        optimize=optimize,
        options=ExecOptions(profile=profile),
        pool=pool,
    )


class TestMaxactive:
    """kretprobe_maxactive.tc: how many calls a return probe follows at once."""

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("r f", None),
            ("r10 f", 10),
            ("r4096 f", 4096),
            ("r10:grp/name f", 10),
            ("r:name f", None),
        ],
    )
    def test_is_the_number_behind_the_r(self, text, number):
        assert parse_spec(text).maxactive == number

    @pytest.mark.parametrize(
        "text",
        [
            "p10 f",
            "p100:name f",
            "rx f",
            "r-1 f",
            "r10a f",
            "r10fuzz:name f",
            "r1a111 f",
            "r1 f+4",
            "a:name f",
        ],
    )
    def test_is_refused_elsewhere(self, text):
        with pytest.raises(InputError):
            parse_spec(text)

    @pytest.mark.parametrize(("number", "fine"), [(4096, True), (4097, False), (1_000_000, False)])
    def test_is_at_most_4096(self, pool, profile, number, fine):
        if fine:
            assert run([f"r{number} f"], profile, pool).probes[0].hits == 1
            return
        with pytest.raises(KprobeError) as refused:
            run([f"r{number} f"], profile, pool)
        assert refused.value.errno == errno.E2BIG


class TestEventNames:
    """kprobe_eventname.tc: the names of events and groups."""

    @pytest.mark.parametrize(
        ("text", "group", "event"),
        [
            ("p f", None, None),
            ("p:e1 f", None, "e1"),
            ("p:g1/e1 f", "g1", "e1"),
            ("p:_g/_e f+0x4", "_g", "_e"),
            ("r:g/e f", "g", "e"),
            (f"p:{LONG[1:]}/{LONG} f", LONG[1:], LONG),
        ],
    )
    def test_names_are_group_and_event(self, text, group, event):
        spec = parse_spec(text)
        assert (spec.group, spec.event) == (group, event)

    @pytest.mark.parametrize("symbol", ["f.isra.0", "f.part.1.constprop.0", "$x", "f@plt"])
    def test_a_symbol_may_have_dots(self, symbol):
        assert parse_spec(f"p {symbol}+0x4").symbol == symbol


class TestSyntaxErrors:
    """kprobe_syntax_errors.tc, but for fetch arguments."""

    @pytest.mark.parametrize(
        "text",
        [
            "p hoge-fuga",
            "p hoge+1000-1000",
            "p f+",
            "p f+0x",
            "p f-4",
            "p +4",
            "p f+99999999999999999999",
            "p 0xg",
        ],
    )
    def test_a_malformed_place_is_refused_with_one_line(self, text):
        self.assert_refused(text)

    @pytest.mark.parametrize("text", ["r f+10", "r f+1"])
    def test_a_return_probe_elsewhere_than_at_a_function_is_refused_with_one_line(self, text):
        self.assert_refused(text)

    def test_a_return_probe_at_an_address_is_one_at_a_functions_first_byte(self, pool, profile):
        assert run([f"r {BASE:#x}"], profile, pool).probes[0].hits == 1
        with pytest.raises(KprobeError) as refused:
            run([f"r {BASE + 2:#x}"], profile, pool)
        assert refused.value.errno == errno.EINVAL

    @pytest.mark.parametrize(
        "text",
        [
            "p: f",
            "p:1bad f",
            "p:a-b f",
            "p:/e f",
            "p:/bar f",
            "p:foo.1/bar f",
            "p:foo/ f",
            "p:foo/bar.1 f",
            "p:a/b/c f",
        ],
    )
    def test_a_malformed_name_is_refused_with_one_line(self, text):
        self.assert_refused(text)

    @pytest.mark.parametrize("text", [f"p:{LONG}/bar f", f"p:foo/{LONG}a f", f"p:{LONG}a f"])
    def test_a_name_too_long_is_refused_with_one_line(self, text):
        self.assert_refused(text)

    @pytest.mark.parametrize("text", ["", " ", "q f", "pp f", "P f"])
    def test_what_is_no_definition_is_refused_with_one_line(self, text):
        self.assert_refused(text)

    @staticmethod
    def assert_refused(text: str) -> None:
        with pytest.raises(InputError) as refused:
            parse_spec(text)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "argument", ["$retval", "$stack0", "%ax", "@0x1000", "+0(%si)", "x=%di"]
    )
    def test_fetch_arguments_are_refused_rather_than_ignored(self, pool, profile, argument):
        with pytest.raises(InputError, match="fetch arguments"):
            run([f"p f {argument}"], profile, pool)

    def test_a_function_that_is_not_there_is_refused_as_the_kernel_does(self, pool, profile):
        with pytest.raises(KprobeError) as refused:
            run(["p non_exist_func"], profile, pool)
        assert refused.value.errno == (errno.ENOENT if profile.lookup_is_enoent else errno.EINVAL)


class TestAFunctionThatIsThereTwice:
    """number_of_same_symbols(), and what a bare symbol adds to the kernel's syntax."""

    IMAGE = asm_image(
        *TARGETS,
        "ret",
        symbols=(
            Symbol("f", BASE, 9),
            Symbol("f", BASE + 256, 9),
            Symbol("f", BASE + 512, 1, shadowed=True),
        ),
    )

    @pytest.mark.parametrize("text", ["f", "f+0x2"])
    def test_a_bare_symbol_is_refused_with_the_addresses_to_choose_from(self, profile, text):
        offset = parse_spec(text).offset
        with pytest.raises(InputError) as refused:
            refuse_ambiguous(parse_spec(text), self.IMAGE, profile)
        assert (
            "2 functions are called f; write the address of the one that is meant:"
            f" {BASE + offset:#x}, " in str(refused.value)
        )
        refuse_ambiguous(parse_spec(f"{BASE + 256 + offset:#x}"), self.IMAGE, profile)

    @pytest.mark.parametrize("text", ["p f", "p:e f+2", "r f"])
    def test_kprobe_events_answers_eaddrnotavail_since_6_1_and_takes_the_first_in_2010(
        self, profile, text
    ):
        if profile is LINUX_2010:
            refuse_ambiguous(parse_spec(text), self.IMAGE, profile)
            return
        with pytest.raises(KprobeError) as refused:
            refuse_ambiguous(parse_spec(text), self.IMAGE, profile)
        assert refused.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("optimize", [False, True])
def test_two_events_at_one_place_and_one_on_its_return_each_count_every_call(
    pool, profile, optimize
):
    """kprobe_multiprobe.tc and profile.tc ask for this."""
    found = case("sha256-200")
    result = run_image(
        elf(found.image),
        found.symbol,
        [parse_argument(argument) for argument in found.args],
        [
            parse_spec(text)
            for text in ("p:one compress", "p:two compress", "r:back compress", "p:outer sha256")
        ],
        optimize=optimize,
        options=ExecOptions(profile=profile),
        pool=pool,
    )
    assert result.calls[0].buffers == found.buffers
    assert [(probe.hits, probe.misses) for probe in result.probes] == [
        (4, 0),
        (4, 0),
        (4, 0),
        (1, 0),
    ]
