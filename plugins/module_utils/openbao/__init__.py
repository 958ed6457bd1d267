# SPDX-License-Identifier: Apache-2.0
"""OpenBao: client and cores of the openbao_* and vault_health modules. Standard library only, Python 3.9."""
