# Runs in the child: python -S -B -s -c HARNESS IN OUT PATHS...
#
# Reads from IN, each preceded by its length in 4 bytes: the program, the number of texts that follow it, these texts (the
# first ones set the tests up, the others are the tests), and a nonce. What is not needed yet stays in the pipe. Writes to
# OUT the nonce once everything has run, or at which text it ended and why.
def harness():
    import posix
    import sys

    # Bound before foreign code runs, so that what it does to modules and builtins does not reach them.
    read, write, leave = posix.read, posix.write, posix._exit
    run, translate, number, most, everything = exec, compile, int.from_bytes, len, BaseException
    source, target = int(sys.argv[1]), int(sys.argv[2])
    sys.path[:] = sys.argv[3:]
    sys.argv[:] = ["answer"]

    def exactly(wanted):
        parts = b""
        while most(parts) < wanted:
            more = read(source, wanted - most(parts))
            if not more:
                leave(70)
            parts += more
        return parts

    def text():
        return exactly(number(exactly(4), "little")).decode()

    def flush():
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except everything:
                pass

    def failed(stage, error):
        kind = type(error).__name__
        try:
            said = str(error)
        except everything:
            said = ""
        flush()
        write(target, f"{stage}\n{kind}\n{said}".encode("utf-8", "backslashreplace")[:4000])
        leave(1)

    # A module of its own, so that classes of the program can be found by the name of their module.
    module = type(sys)("answer")
    sys.modules["answer"] = module
    space = module.__dict__

    stage = "program"
    try:
        run(translate(text(), "<answer>", "exec", 0, True), space)
        for index in range(number(exactly(4), "little")):
            stage = str(index)
            run(translate(text(), f"<test {index}>", "exec", 0, True), space)
    except everything as error:
        failed(stage, error)
    flush()
    write(target, exactly(32))
    leave(0)


harness()
