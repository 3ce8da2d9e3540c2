# Asks an interpreter where it lives. Prints JSON.
import json
import sys
import sysconfig

mapped = set()
try:
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(None, 5)[5:]
            if path and path[0].startswith("/"):
                mapped.add(path[0].strip())
except OSError:
    pass
print(
    json.dumps(
        {
            "executable": sys.executable,
            "version": ".".join(map(str, sys.version_info[:3])),
            "implementation": sys.implementation.name,
            "prefixes": sorted({sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}),
            "libraries": sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}),
            "paths": [path for path in sys.path if path.startswith("/")],
            "mapped": sorted(mapped),
        }
    )
)
