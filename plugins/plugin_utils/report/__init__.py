# SPDX-License-Identifier: Apache-2.0
"""From the verdicts of many hosts to one judged record, and its views. Runs on the controller only; knows nothing of Ansible."""
