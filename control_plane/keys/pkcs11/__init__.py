"""PKCS#11, as much of it as a vault needs: the device behind `vault_pkcs11.py`.

Owns the library, of which a process has one, its threads, sessions and logins. Does not own what the keys are for, nor
what a vault promises. Start reading at `library.py`.
"""
