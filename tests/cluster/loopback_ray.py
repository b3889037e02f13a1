"""`ray` whose nodes stay on 127.0.0.1; it would put the machine's own address in its place.

python loopback_ray.py start --address=127.0.0.1:PORT ...
"""

import sys

from ray._private import services

services.resolve_ip_for_localhost = lambda host: host

from ray.scripts.scripts import main  # noqa: E402

sys.argv[0] = "ray"
main()
