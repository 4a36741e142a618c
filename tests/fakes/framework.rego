# Rules that judge a policy in the tests: the points at which a utility VM decides, written for these tests.
# The shapes of inputs, answers and metadata are those that the policy's bindings are made for; nothing else is.
package framework

import future.keywords.every
import future.keywords.in

refused := {"allowed": false}

# -- layers ---------------------------------------------------------------------------------------

default mount_device := {"allowed": false}

mount_device := answer if {
    input.deviceHash in {layer | some container in data.policy.containers; some layer in container.layers}
    not data.metadata.devices[input.target]
    answer := {
        "allowed": true,
        "metadata": [{"name": "devices", "action": "add", "key": input.target, "value": input.deviceHash}],
    }
}

default mount_overlay := {"allowed": false}

# Paths come top first; a policy lists its layers base first.
mounted_hashes := [data.metadata.devices[path] | some path in input.layerPaths]

mount_overlay := answer if {
    count(mounted_hashes) == count(input.layerPaths)
    fitting := [container | some container in data.policy.containers; container.layers == array.reverse(mounted_hashes)]
    count(fitting) > 0
    answer := {
        "allowed": true,
        "metadata": [{"name": "matches", "action": "add", "key": input.containerID, "value": fitting}],
    }
}

# -- containers -----------------------------------------------------------------------------------

whole(pattern) := concat("", ["^(?:", pattern, ")$"])

env_fits(rule, text) if {
    rule.strategy == "string"
    rule.pattern == text
}

env_fits(rule, text) if {
    rule.strategy == "re2"
    regex.match(whole(rule.pattern), text)
}

env_known(rules, text) if {
    some rule in rules
    env_fits(rule, text)
}

env_kept(rules) := [text | some text in input.envList; env_known(rules, text)] if {
    data.policy.allow_environment_variable_dropping
} else := input.envList

env_complete(rules, kept) if {
    every text in kept { env_known(rules, text) }
    needed := [rule | some rule in rules; rule.required]
    every rule in needed {
        some text in kept
        env_fits(rule, text)
    }
}

source_fits(pattern, source) if pattern == source

source_fits(pattern, source) if {
    startswith(pattern, "sandbox://")
    regex.match(whole(replace(pattern, "sandbox://", input.sandboxDir)), source)
}

mount_fits(entry, mount) if {
    entry.type == mount.type
    entry.destination == mount.destination
    count(entry.options) == count(mount.options)
    {one | some one in entry.options} == {one | some one in mount.options}
    source_fits(entry.source, mount.source)
}

mount_known(entries, mount) if {
    some entry in entries
    mount_fits(entry, mount)
}

id_fits(rule, _) if rule.strategy == "any"

id_fits(rule, who) if {
    rule.strategy == "id"
    rule.pattern == who.id
}

id_fits(rule, who) if {
    rule.strategy == "name"
    rule.pattern == who.name
}

group_known(rules, group) if {
    some rule in rules
    id_fits(rule, group)
}

user_fits(rule) if {
    rule.umask == input.umask
    id_fits(rule.user_idname, input.user)
    every group in input.groups { group_known(rule.group_idnames, group) }
}

# What is asked for beyond the policy is dropped; what the policy has and nobody asks for does not fit.
set_fits(allowed, wanted) if {one | some one in wanted; one in allowed} == {one | some one in allowed}

capabilities_fit(allowed) if {
    every name in ["ambient", "bounding", "effective", "inheritable", "permitted"] {
        set_fits(allowed[name], input.capabilities[name])
    }
}

elevation_fits(container) if not input.privileged

elevation_fits(container) if container.allow_elevated

privileges_fit(container) if not container.no_new_privileges

privileges_fit(container) if input.noNewPrivileges

process_fits(container) if {
    container.working_dir == input.workingDir
    privileges_fit(container)
    user_fits(container.user)
    env_complete(container.env_rules, env_kept(container.env_rules))
    capabilities_fit(container.capabilities)
}

container_fits(container) if {
    container.command == input.argList
    process_fits(container)
    elevation_fits(container)
    container.seccomp_profile_sha256 == input.seccompProfileSHA256
    every mount in input.mounts { mount_known(container.mounts, mount) }
}

default create_container := {"allowed": false}

create_container := answer if {
    fitting := [container | some container in data.metadata.matches[input.containerID]; container_fits(container)]
    count(fitting) > 0
    count({container.allow_stdio_access | some container in fitting}) == 1
    answer := {
        "allowed": true,
        "allow_stdio_access": fitting[0].allow_stdio_access,
        "env_list": env_kept(fitting[0].env_rules),
        "metadata": [
            {"name": "matches", "action": "update", "key": input.containerID, "value": fitting},
            {"name": "started", "action": "add", "key": input.containerID, "value": {"privileged": input.privileged}},
        ],
    }
}

default exec_in_container := {"allowed": false}

exec_in_container := {"allowed": true} if {
    data.metadata.started[input.containerID]
    some container in data.metadata.matches[input.containerID]
    process_fits(container)
    some process in container.exec_processes
    process.command == input.argList
}

default signal_container_process := {"allowed": false}

signal_container_process := {"allowed": true} if {
    data.metadata.started[input.containerID]
    some container in data.metadata.matches[input.containerID]
    input.signal in container.signals
}

# -- the guest ------------------------------------------------------------------------------------

get_properties := {"allowed": data.policy.allow_properties_access}

dump_stacks := {"allowed": data.policy.allow_dump_stacks}

runtime_logging := {"allowed": data.policy.allow_runtime_logging}

unmount_device := refused

unmount_overlay := refused

exec_external := refused

shutdown_container := refused

plan9_mount := refused

plan9_unmount := refused

load_fragment := refused

scratch_mount := {"allowed": object.get(input, "encrypted", false)}

scratch_unmount := refused

rw_mount_device := {"allowed": object.get(input, "encrypted", false)}

host_network := refused

load_transparency_trust_list := refused

errors := ["refused by the rules of the tests"]
