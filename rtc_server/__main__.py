"""`python -m rtc_server`: the same as the command `rtc-server`."""

from rtc_server.cli import main

if __name__ == "__main__":
    main()
