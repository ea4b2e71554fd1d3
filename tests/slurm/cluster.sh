#!/usr/bin/env bash
# A real SLURM on this one machine, without systemd: `cluster.sh start|stop|status [FOLDER]`.
#
# Debian's slurm-wlm and munge, daemons on 127.0.0.1, four declared CPUs whatever the machine has. FOLDER (default
# /tmp/eva02_slurm) holds configuration, state and logs; SLURM_CONF=FOLDER/slurm.conf is what sbatch and srun then need.
set -euo pipefail

folder="${2:-/tmp/eva02_slurm}"
conf="$folder/slurm.conf"
host="$(hostname -s)"
port="${EVA02_SLURM_PORT:-16817}"  # and the next one
memory_mib=$(awk '/MemTotal/ {print int($2 / 1024 * 0.95)}' /proc/meminfo)

require() {
  for program in munged munge slurmctld slurmd sbatch scontrol; do
    command -v "$program" >/dev/null || { echo "error: $program is missing; apt-get install slurm-wlm munge" >&2; exit 2; }
  done
  [ "$(id -u)" = 0 ] || { echo "error: the daemons are started as root; use sudo" >&2; exit 2; }
}

configure() {
  mkdir -p "$folder"/{state,spool,log}
  cat >"$conf" <<EOF
ClusterName=eva02
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$folder/munge.socket
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MpiDefault=none
ReturnToService=2
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
MaxArraySize=1000
KillWait=10
MinJobAge=3600
OverTimeLimit=0
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=$memory_mib State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
  # no cgroups: the machine may be a container
  echo "CgroupAutomount=no" >"$folder/cgroup.conf"
}

start() {
  require
  configure
  [ -s "$folder/munge.key" ] || { dd if=/dev/urandom bs=1 count=1024 of="$folder/munge.key" 2>/dev/null; chmod 600 "$folder/munge.key"; }
  chown -R root "$folder"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
  export SLURM_CONF="$conf"
  slurmctld -f "$conf" -c
  slurmd -f "$conf" -c
  for _ in $(seq 60); do
    if sinfo -h -o %t 2>/dev/null | grep -qE '^(idle|mix|alloc)$'; then
      echo "export SLURM_CONF=$conf"
      return
    fi
    sleep 0.5
  done
  echo "error: the node did not come up within 30 s; see $folder/log" >&2
  exit 1
}

stop() {
  for name in slurmd slurmctld munged; do
    [ -s "$folder/$name.pid" ] || continue
    pid="$(cat "$folder/$name.pid")"
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 100); do # a daemon that still waits for a job's end would hold its port
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
  done
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  status) SLURM_CONF="$conf" sinfo ;;
  *) echo "usage: cluster.sh start|stop|status [FOLDER]" >&2; exit 2 ;;
esac
