"""Laws of images for kernels with IBT (6.1 and next).

There a probe at a function's first byte goes behind the ENDBR64.
"""

from __future__ import annotations

import errno
import json

import pytest

from arch_x86.probes.inspect import inspect_json
from engine.commands.cli import main
from engine.core.profiles import LINUX_2010
from engine.errors import KprobeError
from engine.kprobe import Kprobe, KprobeFlag, Method
from engine.kretprobe import Kretprobe
from tests.conftest import BASE, asm_image

CODE = ".byte 0xf3, 0x0f, 0x1e, 0xfa; mov eax, edi; add eax, 3; nop; nop; ret"
PLAIN = "mov eax, edi; add eax, 3; nop; nop; ret"


@pytest.fixture
def bench(bench_of, profile):
    return bench_of(
        profile,
        asm_image(CODE, PLAIN, "nop dword ptr [rax]; mov eax, edi; nop; nop; ret", ibt=True),
    )


@pytest.fixture
def moved(profile) -> int:
    return 0 if profile is LINUX_2010 else 4


@pytest.mark.parametrize(
    "place", [{"symbol_name": "f"}, {"addr": BASE}], ids=["by symbol", "by address"]
)
def test_a_probe_at_the_first_byte_goes_behind_endbr64_and_is_optimized_there(bench, moved, place):
    hits: list[int] = []
    p = Kprobe(**place, pre_handler=lambda _p, regs: hits.append(regs.ip))
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (p.at, bench.method(p)) == (BASE + moved, Method.OPTIMIZED if moved else Method.INT3)
    assert bench.machine.text.read(BASE, 4)[1:] == bytes.fromhex("0f1efa")
    assert (bench.call("f", 5), hits) == (8, [BASE + moved + 1])
    assert (KprobeFlag.ON_FUNC_ENTRY in p.flags) is (moved > 0)
    bench.kprobes.unregister_kprobe(p)
    p.addr = None if p.symbol_name else p.addr
    bench.kprobes.register_kprobe(p)
    assert p.at == BASE + moved


def test_so_does_a_return_probe_and_only_functions_entries_take_one(bench, moved):
    returned: list[int] = []
    rp = Kretprobe(symbol_name="f", handler=lambda _ri, regs: returned.append(regs.ax))
    bench.kprobes.register_kretprobe(rp)
    assert rp.kp.at == BASE + moved
    assert (bench.call("f", 5), returned) == (8, [8])
    with pytest.raises(KprobeError) as refused:
        bench.kprobes.register_kretprobe(Kretprobe(symbol_name="f", offset=6))
    assert refused.value.errno == errno.EINVAL
    entry = Kretprobe(symbol_name="f", offset=4)
    if moved:
        bench.kprobes.register_kretprobe(entry)
    else:
        with pytest.raises(KprobeError):
            bench.kprobes.register_kretprobe(entry)


@pytest.mark.parametrize("offset", [256, 512], ids=["no ENDBR", "a no-op of other bytes"])
def test_where_there_is_no_endbr_it_stays(bench, offset):
    p = Kprobe(addr=BASE + offset)
    bench.kprobes.register_kprobe(p)
    assert p.at == BASE + offset


def test_in_an_image_without_ibt_it_stays(bench_of, profile):
    p = Kprobe(symbol_name="f")
    bench_of(profile, asm_image(CODE)).kprobes.register_kprobe(p)
    assert p.at == BASE


def test_inspect_answers_for_the_first_byte_as_for_where_the_probe_goes():
    first, *others = inspect_json(asm_image(CODE, ibt=True), "f", buffers=True)["functions"][0][
        "sites"
    ]
    goes = others[3]
    assert (first["insn"], first["length"], goes["offset"], goes["optimizable"]) == (
        "endbr64",
        4,
        4,
        True,
    )
    assert first == goes | {"offset": 0, "insn": "endbr64", "length": 4}


class TestCommands:
    @pytest.fixture
    def image(self, tmp_path) -> str:
        code = asm_image(CODE).segments[0].data
        document = {"format": "code-image", "version": 1, "ibt": True}
        document |= {
            "segments": [{"addr": BASE, "hex": code.hex()}],
            "symbols": [{"name": "f", "addr": BASE, "size": len(code)}],
        }
        path = tmp_path / "ibt.json"
        path.write_text(json.dumps(document))
        return str(path)

    def test_run_script_check_and_verify_agree(self, capsys, image, tmp_path, profile, moved):
        call = ["--call", "f", "--arg", "5", "--profile", profile.name, "--json"]
        assert main(["run", image, *call, "--probe", "f"]) == 0
        (probe,) = json.loads(capsys.readouterr().out)["probes"]
        assert (probe["offset"], probe["hits"]) == (moved, 1)
        operations = tmp_path / "operations"
        operations.write_text("reg 0 f+0\n")
        assert main(["script", image, str(operations), "--profile", profile.name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["list"][0][0] == f"f+{moved:#x}"
        assert (
            main(["check", image, *call, "--probe", "f", "--calls", "1", "--preemptions", "0"]) == 0
        )
        assert json.loads(capsys.readouterr().out)["verdict"] == "safe"
        assert main(["verify", image, *call]) == 0
        assert json.loads(capsys.readouterr().out)["sites"] == (5 if moved else 6)
