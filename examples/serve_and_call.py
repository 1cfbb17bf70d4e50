"""An endpoint in a process of its own, called with `openai`: `python examples/serve_and_call.py`.

In a shell of its own: ctl serve tiny --port 8000
"""

import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import openai

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
serve = ["from reasonctl.calibration.cli.main import main; main()", "serve", "tiny", "--port", str(port)]
server = subprocess.Popen([sys.executable, "-c", *serve], stdout=subprocess.DEVNULL)
try:
    for _ in range(600):
        try:
            urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            break
        except URLError:  # it loads the model
            time.sleep(0.1)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    reply = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "52 a+3 b-6 c+8"}],
        max_completion_tokens=300,
        seed=1,
        extra_body={"reasonctl": {"risk": 0.05}},
    )
    print(reply.choices[0].message.content)
    print(f"[{reply.reasonctl['choices'][0]['why']}; {reply.usage.completion_tokens} tokens]")
finally:
    server.terminate()
    server.wait()
