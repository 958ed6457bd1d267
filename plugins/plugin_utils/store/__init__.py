# SPDX-License-Identifier: Apache-2.0
"""The content-addressed artifact store of the controller.

Never travels to a host. `core` is the store itself, `locks` what an artifact is made of, `maven`, `pypi` and
`golang` fetch and build parts, `debs` resolves Debian packages and makes the signed local repository, `build`
ties them together, `relock` writes the lock files.
"""
