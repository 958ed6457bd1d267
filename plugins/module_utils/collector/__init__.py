# SPDX-License-Identifier: Apache-2.0
"""What the software of a mirror can do: the running processes, their configuration as loaded, their sockets, and files of other collectors."""
