"""Laws of the process pool: the order of answers, and what is left when a process dies."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from engine import process_pool
from engine.errors import EngineBug, InputError, KprobeError, WorkerDied
from engine.process_pool import ProcessPool

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def none_is_left(capfd):
    """Require of each test that no worker outlives its pool, and that none writes anything."""
    yield
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


class Gate:
    """A gate that one process opens and another one waits at."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()

    def open(self) -> None:
        os.write(self._in, b"x")

    def wait(self) -> None:
        os.read(self._out, 1)


def pool(work, number: int = 2, make=lambda: None, **more) -> ProcessPool:
    return ProcessPool(make, lambda _state, task: work(task), number, **more)


def pid_of(_task: object) -> int:
    return os.getpid()


def wait_until(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class TestAnswers:
    @pytest.fixture
    def second_first(self):
        """Two tasks, the second of which is done first."""
        gate = Gate()

        def work(task: int) -> int:
            if task == 0:
                gate.wait()
            return task * 10

        with pool(work) as workers:
            yield workers, gate

    def test_answers_come_in_the_order_of_the_tasks_and_are_told_as_they_come(self, second_first):
        workers, gate = second_first
        told: list[int] = []

        def came(answer: int) -> None:
            told.append(answer)
            if len(told) == 4:
                gate.open()

        assert list(workers.in_order(range(5), came)) == [0, 10, 20, 30, 40]
        assert told == [10, 20, 30, 40, 0]

    def test_answers_come_as_they_are_done_with_the_numbers_of_their_tasks(self, second_first):
        workers, gate = second_first
        answers = workers.as_they_come([0, 7, 8])
        assert [next(answers), next(answers)] == [(1, 70), (2, 80)]
        gate.open()
        assert list(answers) == [(0, 0)]

    def test_each_process_builds_its_state_once_and_only_for_a_task(self):
        states = ProcessPool(
            lambda: (os.getpid(), os.urandom(8)), lambda state, _task: (state, os.getpid()), 3
        )
        with states as workers:
            answers = [*workers.in_order(range(20)), *workers.in_order(range(20))]
            assert all(state[0] == pid != os.getpid() for state, pid in answers)
            assert len({state for state, _ in answers}) == len({pid for _, pid in answers}) <= 3

    def test_a_pool_of_one_works_in_this_process_and_forks_nothing(self):
        made: list[int] = []
        with ProcessPool(lambda: made.append(1), lambda _state, _task: os.getpid(), 1) as alone:
            assert set(alone.in_order(range(3))) == {os.getpid()}
            assert list(alone.as_they_come(range(2))) == [(0, os.getpid()), (1, os.getpid())]
            assert (made, alone.started) == ([1], False)

    def test_nothing_is_forked_before_there_are_tasks(self):
        with pool(pid_of) as workers:
            assert (workers.started, multiprocessing.active_children()) == (False, [])
            assert list(workers.in_order([])) == []

    @pytest.mark.parametrize("number", [1, 3])
    def test_a_task_is_worked_on_with_all_news_told_before_it_was_given(self, number):
        known: list[str] = []
        with pool(lambda _task: list(known), number, learn=known.append) as workers:
            workers.learn("before all")
            assert list(workers.in_order(range(6))) == [["before all"]] * 6
            workers.learn("then")
            workers.learn("at last")
            assert list(workers.in_order(range(6))) == [["before all", "then", "at last"]] * 6

    def test_tasks_and_answers_larger_than_a_pipe_go_through(self):
        large = bytes(3 << 20)
        with pool(lambda task: task) as workers:
            assert all(answer == large for answer in workers.in_order([large] * 5))

    def test_a_pool_whose_answers_were_left_unread_takes_no_more_tasks(self):
        with pool(pid_of) as workers:
            next(workers.in_order(range(5)))
            with pytest.raises(AssertionError, match="left unread"):
                next(workers.in_order(range(5)))


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            InputError("no more"),
            KprobeError(84, "why"),
            ZeroDivisionError("by zero"),
            SystemExit(3),
        ],
    )
    @pytest.mark.parametrize("where", ["make", "work"])
    def test_an_error_in_a_worker_is_the_callers_error(self, error, where):
        def fails(_task: object = None) -> None:
            raise error

        with (
            closing(pool(fails) if where == "work" else pool(pid_of, make=fails)) as workers,
            pytest.raises(type(error)) as raised,
        ):
            list(workers.in_order([1, 2, 3]))
        assert (raised.value.args, vars(raised.value)) == (error.args, vars(error))
        assert "in fails\n" in str(raised.value.__cause__)

    def test_an_error_waits_for_its_turn_like_an_answer(self):
        """So the result does not depend on which task is done first."""
        gate = Gate()

        def work(task: int) -> int:
            if task == 1:
                raise InputError("no more")
            if task == 2:
                gate.open()
            elif task == 0:
                gate.wait()
            return task

        with pool(work) as workers:
            answers = workers.in_order(range(4))
            assert next(answers) == 0
            with pytest.raises(InputError, match="no more"):
                next(answers)

    def test_an_error_that_can_not_be_sent_is_told_in_words(self):
        class Ours(Exception):
            """An error whose class is made in a function, so that no module has it."""

        def work(_task: object) -> None:
            raise Ours("what is wrong")

        with (
            pool(work) as workers,
            pytest.raises(EngineBug, match="in a worker process: Ours: what is wrong"),
        ):
            list(workers.in_order([1, 2]))

    def test_an_answer_that_can_not_be_sent_is_an_error(self):
        with pool(lambda _task: lambda: None) as workers, pytest.raises(Exception, match="pickle"):
            list(workers.in_order([1, 2]))

    def test_a_worker_without_memory_counts_as_dead_and_says_why(self):
        def work(_task: object) -> None:
            raise MemoryError

        with (
            pool(work) as workers,
            pytest.raises(
                WorkerDied, match="a worker process has too little memory; use fewer --jobs"
            ),
        ):
            list(workers.in_order([1, 2]))


class TestDeath:
    def test_a_killed_workers_task_has_an_error_for_its_answer_behind_those_before(self):
        """The other workers go on meanwhile."""
        gate = Gate()

        def work(task: int) -> int:
            if task == 1:
                gate.open()
                os.kill(os.getpid(), signal.SIGKILL)
            elif task == 0:
                gate.wait()
            return task

        with pool(work) as workers:
            answers = workers.in_order(range(9))
            assert next(answers) == 0
            with pytest.raises(
                WorkerDied,
                match="a worker process died, perhaps for lack of memory; use fewer --jobs",
            ):
                next(answers)

    def test_all_workers_that_are_killed_are_told(self):
        with (
            pool(lambda _task: os.kill(os.getpid(), signal.SIGKILL)) as workers,
            pytest.raises(WorkerDied),
        ):
            list(workers.in_order(range(9)))

    def test_a_worker_that_is_killed_with_a_task_unread_is_told(self):
        """The leader reads a reset of the connection then, and not only its end."""
        with pool(pid_of) as workers:
            list(workers.in_order([1, 2]))
            worker = workers._workers[0]
            os.kill(worker.process.pid, signal.SIGSTOP)
            worker.give(iter([(5, "a task")]))
            worker.process.kill()
            number, (_, error, _) = worker.receive()
            assert (number, type(error)) == (5, WorkerDied)

    def test_an_idle_worker_that_is_killed_is_told_at_its_next_task(self):
        with pool(pid_of) as workers:
            list(workers.in_order([1, 2]))
            for child in multiprocessing.active_children():
                child.kill()
                child.join()
            with pytest.raises(WorkerDied, match="a worker process died"):
                list(workers.in_order([bytes(1 << 20)] * 2))

    def test_an_answer_is_not_lost_with_who_gave_it(self, monkeypatch):
        """The next task can't be sent to a dead worker, which must not hide its last answer."""
        give = process_pool._Worker.give

        def late(worker, waiting) -> None:
            given.append(worker)
            if len(given) == 3:
                worker.process.kill()
                worker.process.join()
            give(worker, waiting)

        given: list[object] = []
        monkeypatch.setattr(process_pool._Worker, "give", late)
        with pool(pid_of) as workers:
            answers = workers.as_they_come(range(20))
            assert next(answers)[1] == given[2].process.pid
            with pytest.raises(WorkerDied):
                list(answers)

    @pytest.mark.parametrize("signals", [[], [signal.SIGSTOP]], ids=["at work", "stopped"])
    def test_closing_ends_workers_whatever_they_do(self, monkeypatch, signals):
        monkeypatch.setattr(process_pool, "_END_SECONDS", 0.1)
        gate = Gate()
        with pool(lambda task: gate.wait() if task else task) as workers:
            next(workers.in_order(range(4)))
            for number in signals:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, number)

    def test_a_worker_whose_leader_is_gone_ends_quietly(self):
        """The worker reads an end of file, or a reset where its answer was not read."""
        desk = process_pool._Desk(lambda: None, lambda _state, task: task, print)
        for asked in ([], [([], "a task")]):
            ours, theirs = multiprocessing.Pipe()
            theirs.send("an answer that nobody has read")
            for one in asked:
                ours.send(one)
            process = multiprocessing.get_context("fork").Process(
                target=process_pool._serve, args=(theirs, [ours], desk)
            )
            process.start()
            theirs.close()
            ours.close()
            process.join(20)
            assert process.exitcode == 0

    def test_idle_workers_end_with_a_killed_leader_though_others_are_at_work(self):
        script = (
            "import os, time; from engine.process_pool import ProcessPool\ndef work(_state,"
            " task):\n    os.write(1, f'{task} {os.getpid()}\\n'.encode())\n    time.sleep(30 *"
            " (task == 'busy'))\nlist(ProcessPool(lambda: None, work, 2).in_order(['idle',"
            " 'busy']))\n"
        )
        leader = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert leader.stdout is not None
        pids = {
            name: int(pid) for name, pid in (leader.stdout.readline().split() for _ in range(2))
        }
        leader.kill()
        leader.wait(20)
        try:
            wait_until(lambda: has_ended(pids["idle"]))
        finally:
            os.kill(pids["busy"], signal.SIGKILL)
            leader.stdout.close()


class TestStart:
    def test_a_worker_that_can_not_be_started_is_told_and_those_before_it_end(self, monkeypatch):
        started: list[object] = []
        start = ForkProcess.start

        def full(process) -> None:
            if started:
                raise OSError(11, "Resource temporarily unavailable")
            started.append(process)
            start(process)

        monkeypatch.setattr(ForkProcess, "start", full)
        told = "cannot start a process: Resource temporarily unavailable; use fewer --jobs"
        with pool(pid_of) as workers, pytest.raises(WorkerDied, match=told):
            list(workers.in_order([1, 2]))

    def test_too_many_open_files_are_no_traceback(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        with pool(pid_of) as workers:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
            try:
                with pytest.raises(
                    WorkerDied,
                    match="cannot start a process: Too many open files; use fewer --jobs",
                ):
                    list(workers.in_order([1, 2]))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestCtrlC:
    def test_a_worker_that_has_just_been_started_leaves_ctrl_c_to_the_leader(self, monkeypatch):
        """The signal comes between the start of the process and the first line of its function."""
        serve = process_pool._serve

        def late(*words) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            serve(*words)

        monkeypatch.setattr(process_pool, "_serve", late)
        with pool(lambda task: task) as workers:
            assert list(workers.in_order(range(3))) == [0, 1, 2]

    @pytest.mark.parametrize("method", ["start", "join"])
    @pytest.mark.parametrize("taken_by", ["the main thread", "another thread"])
    def test_ctrl_c_while_workers_start_or_end_leaves_none_behind(
        self, monkeypatch, method, taken_by
    ):
        """Whichever thread takes the signal, its handler runs in the main thread."""
        usual = getattr(ForkProcess, method)
        over = threading.Event()
        other = threading.Thread(target=over.wait)
        other.start()
        thread = other if taken_by == "another thread" else threading.main_thread()
        came: list[int] = []

        def interrupted(process, *words) -> None:
            if not came:
                came.append(1)
                signal.pthread_kill(thread.ident, signal.SIGINT)
                time.sleep(0.02)  # until the signal is taken
            usual(process, *words)

        monkeypatch.setattr(ForkProcess, method, interrupted)
        mask, handler = (
            signal.pthread_sigmask(signal.SIG_BLOCK, []),
            signal.getsignal(signal.SIGINT),
        )
        with pytest.raises(KeyboardInterrupt), pool(lambda task: task) as workers:
            assert list(workers.in_order([1, 2])) == [1, 2]
        assert (signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGINT)) == (
            mask,
            handler,
        )
        over.set()
        other.join()

    def test_ctrl_c_to_all_processes_of_a_terminal_is_one_keyboardinterrupt(self):
        """One worker is at work then, and the other one waits for a task."""
        script = (
            "import os, time; from engine.process_pool import ProcessPool\ndef work(_state,"
            " task):\n    os.write(1, b'at work\\n')\n    time.sleep(30 * task)\ntry:\n    with"
            " ProcessPool(lambda: None, work, 2) as pool:\n        list(pool.in_order([0,"
            " 1]))\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
        )
        leader = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=ROOT,
        )
        assert leader.stdout is not None
        for _ in range(2):
            leader.stdout.readline()
        os.killpg(leader.pid, signal.SIGINT)
        # This returns when the workers, which hold the pipes too, have gone.
        out, err = leader.communicate(timeout=20)
        assert (leader.returncode, out, err) == (0, "interrupted\n", "")
