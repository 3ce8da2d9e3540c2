//! Hostile programs through the public interface: each ends as a failure, and nothing is harmed.

use super::*;
use std::time::{Duration, Instant};

/// One interpreter for all tests.
fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| Sandbox::open(&Settings::default()).unwrap())
}

fn limited(limits: Limits) -> Sandbox {
    Sandbox::open(&Settings { limits, ..Settings::default() }).unwrap()
}

fn program(code: &str) -> Program {
    Program { code: code.into(), setup: Vec::new(), tests: vec!["assert f(2) == 4".into()] }
}

fn ran(code: &str) -> Ran {
    sandbox().run(&program(code), &|| false).unwrap()
}

fn never() -> bool {
    false
}

/// What a program raised: its class.
#[track_caller]
fn raised(code: &str) -> String {
    match ran(code).outcome {
        Outcome::Failed { kind, .. } => kind,
        other => panic!("{other:?}: {code}"),
    }
}

const RIGHT: &str = "def f(x): return x * x\n";

#[test]
fn right_code_passes_and_wrong_code_fails() {
    let code = "import math\ndef f(x):\n    print('called')\n    return math.pow(x, 2)";
    let passed = ran(code);
    assert_eq!(passed, Ran { outcome: Outcome::Passed, stdout: "called\n".into(), stderr: String::new() });
    let failed =
        |stage, kind: &str, message: &str| Outcome::Failed { stage, kind: kind.into(), message: message.into() };
    assert_eq!(ran("def f(x): return 5").outcome, failed(Stage::Test(0), "AssertionError", ""));
    assert_eq!(ran("").outcome, failed(Stage::Test(0), "NameError", "name 'f' is not defined"));
    assert_eq!(ran("1 / 0").outcome, failed(Stage::Code, "ZeroDivisionError", "division by zero"));
    assert_eq!(ran("def f(:").outcome, failed(Stage::Code, "SyntaxError", "invalid syntax (<answer>, line 1)"));
    let place = "import os\nraise ValueError(os.getcwd())";
    assert_eq!(ran(place).outcome, failed(Stage::Code, "ValueError", "<folder>"));
    let set_up = Program { setup: vec!["g = lambda x: h".into(), "g(1)".into()], ..program(RIGHT) };
    let outcome = sandbox().run(&set_up, &never).unwrap().outcome;
    assert_eq!(outcome, failed(Stage::Setup(1), "NameError", "name 'h' is not defined"));
}

/// Texts beyond what a pipe holds, and what a program may use of the library.
#[test]
fn ordinary_programs_run_as_they_do_outside() {
    let long = format!("{RIGHT}text = '{}'\nassert len(text) == 300_000", "é".repeat(300_000));
    assert_eq!(ran(&long).outcome, Outcome::Passed);
    let library = "
import asyncio, bisect, collections, dataclasses, datetime, decimal, enum, fractions, functools, hashlib, heapq, itertools
import json, random, re, sqlite3, ssl, statistics, string, subprocess, sys, tempfile, threading, typing, unittest, zoneinfo
@dataclasses.dataclass
class P:
    x: 'int'
async def g():
    await asyncio.sleep(0.001)
    return 2
assert asyncio.run(g()) == 2
with open('mine.txt', 'w') as file:
    file.write('kept')
assert open('mine.txt').read() == 'kept'
with tempfile.TemporaryDirectory() as folder:
    open(folder + '/a', 'w').close()
import pickle
assert pickle.loads(pickle.dumps(P(1))) == P(1)
assert sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)
assert str(datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc).astimezone().utcoffset()) == '0:00:00'
def f(x): return x * x
";
    let ran = ran(library);
    assert_eq!(ran.outcome, Outcome::Passed, "{}", ran.stderr);
}

#[test]
fn the_same_program_ends_the_same() {
    let code = "print({'a', 'b', 'c'}, object(), hash('x'))\nimport os\nprint(os.getcwd())\nclass C: pass\nf = C()";
    let first = ran(code);
    assert_eq!(first, ran(code));
    assert!(first.stdout.contains("object at 0x...>") && first.stdout.contains("<folder>"), "{first:?}");
}

/// An exit is no verdict, nor is anything printed.
#[test]
fn verdicts_are_not_forged() {
    let exits = [
        "import os; os._exit(0)",
        "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): os._exit(0)",
        "import os\nos.execv(os.sys.executable, ['python', '-S', '-c', 'pass'])",
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'0' * 32)\n    except OSError: pass\nos._exit(0)",
        "import os\nfor fd in range(3, 64):\n    try: os.close(fd)\n    except OSError: pass\nf = lambda x: 4",
        "import sys\nsys._getframe().f_back.f_locals['leave'](0)",
    ];
    for code in exits {
        let ended = ran(code).outcome;
        let failed = matches!(ended, Outcome::Exited(_) | Outcome::Failed { .. });
        assert!(failed, "{ended:?}: {code}");
    }
    let failing = [
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "def f(x):\n    print('passed')\n    raise SystemExit(0)",
        "import builtins\nbuiltins.AssertionError = ZeroDivisionError\nbuiltins.exec = lambda *a: None\ndef f(x): return 5",
        "import builtins\nbuiltins.BaseException = ZeroDivisionError\nbuiltins.compile = lambda *a: 'pass'\nf = None",
        "import posix\nposix.write = posix.read = lambda *a: b'0' * 32\ndef f(x): return 5",
        "import sys\nsys.excepthook = lambda *a: None\nsys.modules['posix'] = None\ndef f(x): return 5",
        "import signal, os\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef f(x): return 5",
        "import gc\nassert any(type(o) is bytes and len(o) == 32 for o in gc.get_objects())",
        "__debug__ = 0",
        "input()",
    ];
    for code in failing {
        assert!(matches!(ran(code).outcome, Outcome::Failed { .. }), "{:?}: {code}", ran(code));
    }
}

#[test]
fn time_and_memory_and_output_have_an_end() {
    let short = limited(Limits { seconds: 1.0, memory: 256 << 20, output: 10_000, files: 1 << 20 });
    let outcome = |code: &str| short.run(&program(code), &never).unwrap();
    assert_eq!(outcome("while True: pass").outcome, Outcome::Timeout);
    assert_eq!(outcome("import time; print('x', flush=True); time.sleep(60)").stdout, "");
    assert_eq!(outcome("import time; time.sleep(60)").outcome, Outcome::Timeout);
    let stubborn = "import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except: pass\nwhile True: pass";
    assert_eq!(outcome(stubborn).outcome, Outcome::Timeout);
    assert_eq!(outcome("x = bytearray(1 << 30)").outcome, Outcome::Memory);
    assert_eq!(outcome("x = []\nwhile True: x.append(x * 2)").outcome, Outcome::Memory);
    let printed = outcome("while True: print('x' * 99)");
    assert_eq!(
        (printed.outcome, printed.stdout.len()),
        (Outcome::Output, 10_000),
        "what is beyond the limit is chance"
    );
    let long = limited(Limits { output: 100_000, ..Limits::default() })
        .run(&program("while True: print('x' * 99)"), &never)
        .unwrap();
    assert_eq!((long.outcome, long.stdout.len()), (Outcome::Output, KEPT));
    assert_eq!(outcome("import sys\nwhile True: sys.stderr.write('x' * 99)").outcome, Outcome::Output);
    let once = format!("print('x' * 10_001)\n{RIGHT}");
    assert_eq!(outcome(&once).outcome, Outcome::Output);
    assert!(
        matches!(outcome("open('a', 'wb').write(bytes(1 << 20))").outcome, Outcome::Failed { kind, .. } if kind == "OSError")
    );
    let many = "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'wb').write(bytes(100_000))";
    assert_eq!(outcome(many).outcome, Outcome::Output);
    let folders = "import os\nwhile True:\n    os.mkdir('a')\n    os.chdir('a')";
    assert!(matches!(outcome(folders).outcome, Outcome::Output | Outcome::Failed { .. }));
}

#[test]
fn crashes_are_told_from_exceptions() {
    // Later interpreters count what the processor's stack holds, whatever a program says.
    let deep = "import sys\nsys.setrecursionlimit(10 ** 9)\nx = []\nfor _ in range(10 ** 6): x = [x]\nrepr(x)";
    let ended = ran(deep).outcome;
    let counted = matches!(&ended, Outcome::Failed { kind, .. } if kind == "RecursionError");
    assert!(counted || ended == Outcome::Killed(libc::SIGSEGV), "{ended:?}");
    assert_eq!(raised("def f(x): return f(x)"), "RecursionError");
    let null = "import ctypes\nctypes.string_at(0)";
    let ended = ran(null).outcome;
    assert!(matches!(ended, Outcome::Killed(libc::SIGSEGV) | Outcome::Failed { .. }), "{ended:?}");
}

#[test]
fn there_is_one_process_with_one_thread() {
    assert_eq!(raised("import os\nwhile True: os.fork()"), "PermissionError");
    assert_eq!(raised("import subprocess\nsubprocess.run(['/bin/sh', '-c', ':(){ :|:& };:'])"), "PermissionError");
    assert_eq!(raised("import threading\nthreading.Thread(target=print).start()"), "RuntimeError");
    assert_eq!(raised("import multiprocessing\nmultiprocessing.Process(target=print).start()"), "PermissionError");
    assert_eq!(raised("import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])"), "PermissionError");
    assert_eq!(raised("import os\nassert os.system('true') == 0"), "AssertionError");
}

#[test]
fn others_are_out_of_reach() {
    let parent = std::process::id();
    for signal in ["SIGKILL", "SIGTERM", "0"] {
        let name = if signal == "0" { "0".into() } else { format!("signal.{signal}") };
        assert_eq!(raised(&format!("import os, signal\nos.kill(os.getppid(), {name})")), "PermissionError");
    }
    assert_eq!(raised("import os, signal\nos.killpg(0, signal.SIGKILL)"), "PermissionError");
    assert_eq!(raised("import os\nos.setsid()"), "PermissionError");
    assert_eq!(raised("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))"), "ValueError");
    for file in ["mem", "environ", "maps", "status", "cmdline"] {
        let read = format!("open('/proc/{parent}/{file}', 'rb').read()");
        assert_eq!(raised(&read), "PermissionError", "{file}");
        assert_eq!(raised(&format!("open('/proc/self/{file}', 'rb').read()")), "PermissionError", "{file}");
    }
    assert_eq!(raised("import os\nos.listdir('/proc')"), "PermissionError");
    // Calls that Python has no words for.
    let calls = [
        ("ptrace", libc::SYS_ptrace, format!("16, {parent}, 0, 0")),
        ("process_vm_readv", libc::SYS_process_vm_readv, format!("{parent}, 0, 0, 0, 0, 0")),
        ("mount", libc::SYS_mount, "0, 0, 0, 0, 0".into()),
        ("unshare", libc::SYS_unshare, format!("{}", libc::CLONE_NEWUSER)),
        ("chroot", libc::SYS_chroot, "b'.'".into()),
        ("setns", libc::SYS_setns, "0, 0".into()),
        ("bpf", libc::SYS_bpf, "0, 0, 0".into()),
        ("io_uring_setup", libc::SYS_io_uring_setup, "1, 0".into()),
        ("keyctl", libc::SYS_keyctl, "0, 0, 0".into()),
        ("pidfd_open", libc::SYS_pidfd_open, format!("{parent}, 0")),
        ("memfd_create", libc::SYS_memfd_create, "b'x', 0".into()),
        ("shmget", libc::SYS_shmget, "0, 4096, 512".into()),
        ("setpriority", libc::SYS_setpriority, "0, 0, -20".into()),
        ("prctl", libc::SYS_prctl, format!("{}, 0", libc::PR_SET_PDEATHSIG)),
        ("utimensat", libc::SYS_utimensat, "-100, b'.', 0, 0".into()),
        ("setxattr", libc::SYS_setxattr, "b'.', b'user.x', b'y', 1, 0".into()),
        ("truncate", libc::SYS_truncate, "b'/etc/passwd', 0".into()),
        ("mknodat", libc::SYS_mknodat, "-100, b'x', 4480, 0".into()),
    ];
    for (name, call, arguments) in calls {
        let code = format!(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n\
             got = libc.syscall({call}, {arguments})\nassert (got, ctypes.get_errno()) != (-1, 1)"
        );
        assert_eq!(raised(&code), "AssertionError", "{name}");
    }
}

#[test]
fn there_is_no_network() {
    let attempts = [
        "import socket\nsocket.socket()",
        "import socket\nsocket.create_connection(('127.0.0.1', 80))",
        "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/x')",
        "import urllib.request\nurllib.request.urlopen('http://1.1.1.1')",
        "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import socket\nsocket.gethostbyname('example.com')",
        "import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', '/run/x')",
    ];
    for code in attempts {
        let kind = raised(code);
        assert!(matches!(kind.as_str(), "PermissionError" | "URLError" | "gaierror"), "{kind}: {code}");
    }
}

#[test]
fn files_of_the_user_are_neither_read_nor_written() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let secret = secret.display();
    let folder = outside.path().display();
    let planted = std::env::temp_dir().join("idiolect-was-here");
    let refused = [
        format!("open('{secret}').read()"),
        format!("open('{secret}', 'w')"),
        format!("open('{secret}', 'a')"),
        format!("import os\nos.open('{secret}', os.O_RDONLY | os.O_TRUNC)"),
        format!("import os\nos.truncate('{secret}', 0)"),
        format!("import os\nos.remove('{secret}')"),
        format!("import os\nos.rename('{secret}', 'mine')"),
        format!("import os\nos.link('{secret}', 'mine')"),
        format!("import os\nos.symlink('{secret}', 'mine')\nopen('mine').read()"),
        format!("import os\nos.symlink('{folder}', 'mine')\nopen('mine/new', 'w')"),
        format!("import os\nos.chmod('{secret}', 0o777)"),
        format!("import os\nos.chown('{secret}', 0, 0)"),
        format!("import os\nos.utime('{secret}', (0, 0))"),
        format!("import os\nos.listdir('{folder}')"),
        format!("import os\nos.mkdir('{folder}/new')"),
        format!("import os\nos.chdir('{folder}')\nopen('secret').read()"),
        format!("open('{}', 'w')", planted.display()),
        "open('../idiolect-was-here', 'w')".into(),
        "import os\nos.listdir('..')".into(),
        "import os\nos.mkfifo('pipe')".into(),
        "open('/etc/shadow').read()".into(),
        "open('/etc/passwd').read()".into(),
        "open('/dev/shm/x', 'w')".into(),
        "open('/dev/tty')".into(),
        "import os\nos.listdir('/')".into(),
    ];
    for code in refused {
        assert!(matches!(raised(&code).as_str(), "PermissionError" | "OSError"), "{code}");
    }
    assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(!planted.exists());
    let home = std::env::var("HOME").unwrap();
    for code in [format!("import os\nos.listdir('{home}')"), format!("open('{home}/.ssh/id_ed25519').read()")] {
        assert!(matches!(raised(&code).as_str(), "PermissionError" | "FileNotFoundError"), "{code}");
    }
}

/// Nothing of the user's environment, and nothing that the process has open.
#[test]
fn secrets_are_not_handed_on() {
    let open = std::fs::File::open("/etc/passwd").unwrap();
    // SAFETY: a flag of a descriptor of ours; without it children would inherit the file.
    unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&open), libc::F_SETFD, 0) };
    let listed = ran(
        "import os\nprint(sorted(os.environ))\nfor fd in range(64):\n    try: print(fd, os.fstat(fd).st_mode >> 12)\n    except OSError: pass",
    );
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "['HOME', 'LANG', 'LC_ALL', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', \
         'PYTHONDONTWRITEBYTECODE', 'PYTHONHASHSEED', 'PYTHONSAFEPATH', 'PYTHONUTF8', 'TMPDIR', 'TZ']"
    );
    // A device and pipes; no file.
    assert_eq!(lines[1..4], ["0 2", "1 1", "2 1"]);
    assert!(lines[4..].iter().all(|line| line.ends_with(" 1")), "{lines:?}");
}

#[test]
fn folders_are_gone_afterwards() {
    let folders = || {
        let names = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        names.filter(|e| e.file_name().to_string_lossy().starts_with("idiolect-sandbox-")).map(|e| e.path())
    };
    let marked = "open('left-behind-by-a-test', 'w')\nimport os\nos.mkdir('a')\nopen('a/b', 'w')\nwhile True: pass";
    let short = limited(Limits { seconds: 1.0, ..Limits::default() });
    assert_eq!(short.run(&program(marked), &never).unwrap().outcome, Outcome::Timeout);
    let deep =
        "open('left-behind-by-a-test', 'w')\nimport os\nfor _ in range(3000):\n    os.mkdir('a')\n    os.chdir('a')";
    assert!(matches!(ran(deep).outcome, Outcome::Output | Outcome::Failed { .. }));
    // As root nothing is closed.
    let closed = "open('left-behind-by-a-test', 'w')\nimport os\nos.mkdir('a', 0o300)\nopen('a/b', 'w')";
    assert!(matches!(ran(closed).outcome, Outcome::Output | Outcome::Failed { .. }));
    assert!(!folders().any(|folder| folder.join("left-behind-by-a-test").exists()));
}

#[test]
fn many_run_side_by_side_and_can_be_stopped() {
    let programs: Vec<Program> = (0..24).map(|n| program(&format!("print({n})\n{RIGHT}"))).collect();
    let all = sandbox().run_all(&programs, &never).unwrap();
    for (n, ran) in all.iter().enumerate() {
        assert_eq!((&ran.outcome, ran.stdout.as_str()), (&Outcome::Passed, format!("{n}\n").as_str()));
    }
    let start = Instant::now();
    let sleepers = vec![program("import time; time.sleep(60)"); 8];
    let stop = || start.elapsed() > Duration::from_millis(300);
    assert_eq!(sandbox().run_all(&sleepers, &stop), Err(Trouble::Stopped));
    assert_eq!(sandbox().run_all(&[], &never), Ok(Vec::new()));
}

#[test]
fn what_is_missing_is_said() {
    let open = |python: &str| Sandbox::open(&Settings { python: python.into(), ..Settings::default() }).unwrap_err();
    assert_eq!(open("no-such-python-anywhere").code, "python-missing");
    assert_eq!(open("true").code, "python-missing");
    let tight = Settings { limits: Limits { memory: 1 << 20, ..Limits::default() }, ..Settings::default() };
    assert_eq!(Sandbox::open(&tight).unwrap_err().code, "sandbox-failed");
}
