"""The lldwatch dashboard: the runs below a folder, finished or still being written, in a browser.

```
lldwatch dashboard runs                                      # from a shell
python -c "from lldwatch_dashboard import serve; serve('runs')"
threading.Thread(target=serve, args=("runs",), daemon=True).start()     # beside a training, in its process
```

It only reads run directories, through `lldwatch.follow`: it can be started, stopped and started again at any time. No
request leaves the machine. `app` puts it together, each of `pages` is one page, `figures` draws, `feed` reads the
runs, `callbacks` says which page an address opens.
"""

from lldwatch_dashboard.app import create_app, make_server, serve

__all__ = ["create_app", "make_server", "serve"]
