"""What members and variables mean: the words of docs/configuration.md that no parser knows.

Each name here must be one that the code reads, and each that it reads must be here: `manual.configuration`
refuses to write the page otherwise. Defaults come first in brackets where there is one to name.
"""

from __future__ import annotations

_VOLUME = "azure_filesystems[]."

AGENT = {
    "azure_info.certcache.endpoint_type": (
        "`AMD`, `AzCache` or `LocalTHIM`: a certificate service to try first"
    ),
    "azure_info.certcache.endpoint": "its address",
    "azure_info.certcache.tee_type": "in its path, as the predecessor had it",
    "azure_info.certcache.api_version": "in its query, as the predecessor had it",
    "azure_info.certcache.client_id": "in its path, as the predecessor had it",
    "azure_info.identity.client_id": "which managed identity asks vault and store, where there are several",
    "azure_filesystems": "the volumes, 1 to 64",
    _VOLUME + "azure_url": "a blob: `https://ACCOUNT.blob.core.windows.net/CONTAINER/BLOB`, with or without "
    "a shared access signature; secret with one",
    _VOLUME + "image": "in its place: absolute path of a local image, or an address",
    _VOLUME + "azure_url_private": "(false) reach the blob with this machine's identity",
    _VOLUME + "mount_point": "absolute path at which applications find the volume",
    _VOLUME + "read_write": "(false) let it be written: page blobs and local images only",
    _VOLUME + "take_over": "(false) end the lease of another writer at the first mount",
    _VOLUME + "header": "path of a detached LUKS2 header",
    _VOLUME + "require_authenticated_header": "(false) refuse a header without a right MAC",
    _VOLUME + "require": "`integrity`, `rollback` or `verity`: refuse less, before its key is asked for",
    _VOLUME + "anchor": "`vault` or an absolute path: notes how new the image is, and refuses older ones",
    _VOLUME + "accept_rollback": "(false) mount an image older than its anchor, once",
    _VOLUME + "verity_root_hash": "of a sealed image, 64 hex digits: every block is verified; read-only",
    _VOLUME + "cache_size": "(256M) memory of the cache between a blob and its volume",
    _VOLUME + "read_ahead": "(an eighth of the cache) how far ahead of a sequential reader to fetch",
    _VOLUME + "key.kid": "the key in its vault: `NAME` or `NAME/VERSION`",
    _VOLUME + "key.kty": "read and checked: `oct`, `oct-HSM`, `RSA` or `RSA-HSM`; the released key decides",
    _VOLUME + "key.key_ops": "read and checked for its form only",
    _VOLUME + "key.authority.endpoint": "host of the attestation authority, no scheme",
    _VOLUME + "key.authority.api_version": "read; ours counts",
    _VOLUME + "key.authority.tee_type": "read; SNP counts",
    _VOLUME + "key.akv.endpoint": "host of the vault or managed HSM, no scheme",
    _VOLUME + "key.akv.api_version": "read; ours counts",
    _VOLUME + "key.akv.bearer_token": "token for the vault in place of this machine's identity; secret",
    _VOLUME + "key_url": "in place of `key`: `https://VAULT/keys/NAME[/VERSION]`",
    _VOLUME + "maa_endpoint": "with `key_url`: host of the attestation authority",
    _VOLUME + "bearer_token": "with `key_url`: token for the vault; secret",
    _VOLUME + "raw_key": "64 hex digits; counts only with `--insecure-raw-key`; secret",
    _VOLUME + "key_derivation.salt": "required for an RSA key: the salt it was imported with",
    _VOLUME + "key_derivation.label": "(`Symmetric Encryption Key`) for an RSA key",
}

SIDECAR = {
    "certcache.endpoint_type": "`AMD`, `AzCache` or `LocalTHIM`: a certificate service to ask first",
    "certcache.endpoint": "its address",
    "certcache.tee_type": "in its path, as the predecessor had it",
    "certcache.api_version": "in its query, as the predecessor had it",
    "certcache.client_id": "in its path, as the predecessor had it",
    "identity.kind": "(auto) `auto`, `managed`, `workload`, `cli` or `environment`: who asks the vault",
    "identity.client_id": "a managed identity by client id",
    "identity.object_id": "a managed identity by object id",
    "identity.resource_id": "a managed identity by resource id",
    "maaconfig.user_agent": "(`ConfidentialSkrContainer`) what the attestation authority sees",
    "allow.vaults": "hosts of vaults; absent: what the host rules allow; empty: none",
    "allow.authorities": "hosts of attestation authorities; the same",
    "allow.keys": "`NAME`, `NAME/VERSION` or whole addresses; absent: any; empty: none",
    "allow.callers": "objects with `uid`, `gid` or both; nothing is released over TCP then",
    "wrapping_bits": "(2048) size of RSA wrapping keys",
    "token_reuse_seconds": "(3600) how long an attestation token is used again at most; 0: never",
}

VARIABLES = {
    "AZURE_AUTHORITY_HOST": "host that hands out workload identity's tokens",
    "CONTAINERS_STORAGE_CONF": "where buildah's and podman's store is described",
    "DOCKER_CONFIG": "folder of the registry logins",
    "ENCFS_RUN_DIR": "(`/run/encfs` for root) where running mounts are noted",
    "EncfsSideCarArgs": "settings of `encfs agent`, base64 JSON; removed once read; may be secret",
    "HOME": "where a user's cache, state and logins are",
    "LogFile": "log file of `encfs agent` and `skr`",
    "LogLevel": "log level of `encfs agent` and `skr`",
    "NO_COLOR": "no colours in reports",
    "PATH": "where system tools are; the system folders are added",
    "Port": "of `skr`",
    "REGISTRY_AUTH_FILE": "registry logins",
    "ServerType": "of `skr`: `http` or `grpc`",
    "SIDECAR_ALLOWED_HOSTS": "hosts beside Azure's that tokens may go to, with commas between",
    "SIDECAR_CA_FILE": "PEM file of a private certificate authority for the services",
    "SIDECAR_CERTIFICATE_CACHE": "folder that keeps AMD's certificates",
    "SIDECAR_CERTIFICATE_FOLDER": "folder with certificates laid down by hand: nothing is fetched",
    "SIDECAR_IDENTITY": "(auto) who asks the vault, as `identity.kind`",
    "SIDECAR_KDS_ENDPOINT": "address that stands for AMD's certificate service",
    "SIDECAR_MANAGED_HSM_HOSTS": "which of the allowed hosts speak as a managed HSM",
    "SIDECAR_SNP": "where reports come from, as `--snp`; `software` only by name",
    "SIDECAR_SNP_DIRECTORY": "state of the software security processor",
    "SIDECAR_THIM_ENDPOINT": "address that stands for Azure's certificate service on the host",
    "SkrSideCarArgs": "settings of `sidecar serve` and `skr`, base64 JSON",
    "SOURCE_DATE_EPOCH": "with `encfs create --reproducible`: no time is later",
    "STORAGE_DRIVER": "driver of buildah's store",
    "TERM": "`dumb`: no colours in reports",
    "UVM_HOST_AMD_CERTIFICATE": "the host's certificates, where there is no security-context folder",
    "UVM_REFERENCE_INFO": "the UVM's endorsement, the same",
    "UVM_SECURITY_CONTEXT_DIR": "folder with security policy, endorsement and host certificates",
    "UVM_SECURITY_POLICY": "the security policy, where there is no such folder",
    "XDG_CACHE_HOME": "(`~/.cache`) where certificates and layer hashes are kept",
    "XDG_CONFIG_HOME": "(`~/.config`) where the user's store is described",
    "XDG_DATA_HOME": "(`~/.local/share`) where the user's store is",
    "XDG_RUNTIME_DIR": "where running mounts are noted for a user, and registry logins are",
    "XDG_STATE_HOME": "(`~/.local/state`) state of the cloud in a box and the software processor",
}

# Read by azure-identity, in our process.
LIBRARY_VARIABLES = {
    "AZURE_CLIENT_ID, AZURE_TENANT_ID, AZURE_FEDERATED_TOKEN_FILE": "workload identity, with all three set",
    "AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH": "a service principal, with `environment`; secret",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST": "address that stands for the host's identity service",
    "IDENTITY_ENDPOINT, IDENTITY_HEADER": "another source of managed identity's tokens",
    "HTTPS_PROXY, NO_PROXY": "proxy for tokens",
}
