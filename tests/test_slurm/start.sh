#!/usr/bin/env bash
# Start a Slurm cluster of this one machine, as root, with Debian's packages slurm-wlm, slurm-client and munge:
# tests/test_slurm/start.sh FOLDER writes FOLDER/slurm.conf, to which SLURM_CONF has to be set.
set -euo pipefail
mkdir -p "$1"
FOLDER=$(cd "$1" && pwd)
mkdir -p "$FOLDER/state" "$FOLDER/spool"
cat > "$FOLDER/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$(hostname -s)
AuthType=auth/munge
# A requeued job starts when its first run's credential is void, by default after two minutes.
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=2
# Looks at the queue every two seconds, where a real cluster does every minute.
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=$(hostname -s) CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1280)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$FOLDER/slurm.conf
mkdir -p /run/munge
chown munge:munge /run/munge
pgrep -x munged > /dev/null || runuser -u munge -- munged
slurmctld
slurmd
for _ in $(seq 30); do
    sinfo --noheader --format %t | grep -qx idle && exit 0
    sleep 1
done
tail -n 20 "$FOLDER"/*.log
exit 1
