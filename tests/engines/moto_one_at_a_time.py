"""Runs the server of moto, one request at a time.

moto compares the condition of a write and then writes, with no lock: now and then two of eight
writers win. A bucket of a provider does not.
"""

import io
import threading

import moto.server

SERVE = moto.server.run_simple
ONE_AT_A_TIME = threading.Lock()


def serve(host, port, application, **options):
    def one_at_a_time(environ, start_response):
        # The body is read outside of the lock: a client may be silent in the middle of it.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:
            raise ConnectionError("the body ends early")
        environ["wsgi.input"] = io.BytesIO(body)
        with ONE_AT_A_TIME:
            return list(application(environ, start_response))

    SERVE(host, port, one_at_a_time, **options)


moto.server.run_simple = serve
moto.server.main()
