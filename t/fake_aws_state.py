"""What the fake of Amazon serves: instances, clusters, events, metrics, roles.

Resources change their status in time: each has a plan, a list of (moment,
change), that tick() carries out.  Durations are options, in seconds, so that
a test decides how long hours are.
"""

import datetime
import itertools
import re

UTC = datetime.timezone.utc
ACCOUNT = '123456789012'
GIB = 1024 ** 3
FATAL = ('failed', 'incompatible-restore', 'storage-full', 'incompatible-network', 'incompatible-parameters')
POSTGRES = ['13.8', '13.9', '14.6', '14.7', '15.2', '15.3', '15.4', '16.1']
AURORA = ['13.8', '13.9', '14.6', '14.7', '15.2', '15.3', '15.4']
CLASSES = {
    'postgres': ['db.t3.micro', 'db.m5.large', 'db.r5.large', 'db.r6g.large'],
    'mysql': ['db.t3.micro', 'db.r5.large'],
    'aurora-postgresql': ['db.t3.medium', 'db.r5.large', 'db.r6g.large', 'db.serverless'],
}


class ApiError(Exception):
    def __init__(self, code, status, message):
        super().__init__(message)
        self.code, self.status, self.message = code, status, message


def version(text):
    return [int(n) for n in text.split('.')]


def pages(items, records, marker, size):
    """One page and the next marker."""
    records = 100 if records is None else records
    if not 20 <= records <= 100:
        raise ApiError('InvalidParameterValue', 400, 'Invalid value %s for MaxRecords. Must be between 20 and 100' % records)
    records = min(records, size)
    start = 0
    if marker is not None:
        if not re.fullmatch(r'page-\d+==', marker):
            raise ApiError('InvalidParameterValue', 400, 'Invalid marker')
        start = int(marker[5:-2])
    rest = start + records < len(items)
    return items[start:start + records], ('page-%d==' % (start + records) if rest else None)


class State:
    # members of newer models than Debian's
    NEWER = {'ReadReplicaSourceDBClusterIdentifier'}

    def __init__(self, regions):
        self.regions = regions
        self.region = regions[0]
        self.caller = {}
        self.instances = {}
        self.clusters = {}
        self.events = []
        self.metrics = {}
        self.skew = 0              # of the clock that data points go by
        self.credentials = {}
        self.roles = {}
        self.numbers = itertools.count(1)
        self.options = {
            'create_seconds': 0.6, 'cluster_seconds': 0.5, 'delete_seconds': 0.4, 'promote_seconds': 0.6,
            'promote_notice': 0.3,     # how long the status stays available after the call
            'page_size': 100, 'metric_page': 500, 'metric_every': 1.0, 'fatal': None, 'create_status': 'creating',
            'event_wording': 'Promoted Read Replica cluster to a stand-alone database cluster.',
            'promote_fails': None, 'promote_event': True, 'last_instance_rule': True, 'delete_creating': True,
            'keep_link': False, 'deny_after_work': False, 'lag': 0.0, 'list_tags_only': False, 'reject_any_replica': True,
        }
        self.add_credentials('AKIDTEST', 'sEcReT/Key+1', arn='arn:aws:iam::%s:user/tester' % ACCOUNT)
        for region in regions:
            self.region = region
            self.instance('orders', engine='postgres', AllocatedStorage=100)
            self.instance('mysql1', engine='mysql', EngineVersion='8.0.32')
        self.region = regions[0]

    # ---- what the test controls

    def add_credentials(self, key, secret, **more):
        self.credentials[key] = dict({'secret': secret, 'arn': 'arn:aws:iam::%s:user/%s' % (ACCOUNT, key)}, **more)

    def table(self, kind):
        return {'instance': self.instances, 'cluster': self.clusters}[kind]

    def change(self, kind, id, values):
        table = self.table(kind)
        if (self.region, id) not in table:
            if kind == 'instance':
                self.instance(id, engine=values.pop('Engine', 'postgres'))
            else:
                self.cluster(id)
        resource = table[(self.region, id)]
        for name, value in values.items():
            if name == 'TagList':
                value = [{'Key': k, 'Value': v} for k, v in value.items()]
            if value is None:
                resource.pop(name, None)
            else:
                resource[name] = value

    def copies(self, count, template):
        """Many read replicas of an instance."""
        for i in range(1, count + 1):
            id = template % i
            self.instance(id, ReadReplicaSourceDBInstanceIdentifier='orders', BackupRetentionPeriod=0)
            self.find('instance', 'orders')['ReadReplicaDBInstanceIdentifiers'].append(id)

    def dump(self):
        def plain(table):
            return [dict({k: v for k, v in r.items() if not k.startswith('_')}, Region=key[0])
                    for key, r in sorted(table.items())]
        return {'instances': plain(self.instances), 'clusters': plain(self.clusters), 'events': self.events}

    # ---- resources

    def instance(self, id, engine='postgres', **more):
        number = next(self.numbers)
        self.instances[(self.region, id)] = resource = {
            'DBInstanceIdentifier': id, 'DBInstanceClass': 'db.r5.large', 'Engine': engine,
            'DBInstanceStatus': 'available', 'MasterUsername': 'postgres', 'AllocatedStorage': 20,
            'Endpoint': {'Address': '%s.c%d.%s.rds.amazonaws.com' % (id, number, self.region), 'Port': 5432,
                         'HostedZoneId': 'Z1'},
            'InstanceCreateTime': datetime.datetime.now(UTC), 'BackupRetentionPeriod': 7,
            'EngineVersion': '15.3', 'ReadReplicaDBInstanceIdentifiers': [], 'ReadReplicaDBClusterIdentifiers': [],
            'StatusInfos': [], 'StorageEncrypted': False, 'DbiResourceId': 'db-RES%06d' % number,
            'DBInstanceArn': 'arn:aws:rds:%s:%s:db:%s' % (self.region, ACCOUNT, id), 'TagList': [], 'StorageType': 'gp2',
            'MultiAZ': False, 'DeletionProtection': False, '_plan': []}
        resource.update(more)
        return resource

    def cluster(self, id, **more):
        number = next(self.numbers)
        self.clusters[(self.region, id)] = resource = {
            'DBClusterIdentifier': id, 'Status': 'available', 'Engine': 'aurora-postgresql', 'EngineVersion': '15.3',
            'Endpoint': '%s.cluster-c%d.%s.rds.amazonaws.com' % (id, number, self.region),
            'ReaderEndpoint': '%s.cluster-ro-c%d.%s.rds.amazonaws.com' % (id, number, self.region), 'Port': 5432,
            'MasterUsername': 'postgres', 'DBClusterMembers': [], 'StorageEncrypted': False,
            'DbClusterResourceId': 'cluster-RES%06d' % number, 'BackupRetentionPeriod': 1,
            'DBClusterArn': 'arn:aws:rds:%s:%s:cluster:%s' % (self.region, ACCOUNT, id),
            'ClusterCreateTime': datetime.datetime.now(UTC), 'TagList': [], 'DeletionProtection': False, '_plan': []}
        resource.update(more)
        return resource

    def find(self, kind, id):
        resource = self.table(kind).get((self.region, id.lower()))
        if resource is None and kind == 'instance':
            raise ApiError('DBInstanceNotFound', 404, 'DBInstance %s not found.' % id)
        if resource is None:
            raise ApiError('DBClusterNotFoundFault', 404, 'DBCluster %s not found.' % id)
        return resource

    def event(self, kind, id, message, at=None, categories=('notification',)):
        self.events.append({
            'SourceIdentifier': id, 'SourceType': kind, 'Message': message, 'EventCategories': list(categories),
            'Date': at or datetime.datetime.now(UTC), '_region': self.region,
            'SourceArn': 'arn:aws:rds:%s:%s:%s:%s' % (self.region, ACCOUNT, 'db' if kind == 'db-instance' else 'cluster', id)})

    def later(self, resource, seconds, change):
        due = datetime.datetime.now(UTC) + datetime.timedelta(seconds=seconds)
        resource['_plan'].append((due, self.region, change))

    def tick(self, now):
        now = datetime.datetime.now(UTC)
        region = self.region
        for table in (self.instances, self.clusters):
            for key, resource in list(table.items()):
                while resource['_plan'] and resource['_plan'][0][0] <= now:
                    _, self.region, change = resource['_plan'].pop(0)
                    change()
        self.region = region

    @staticmethod
    def check_identifier(name, value):
        if not re.fullmatch(r'[A-Za-z](-?[A-Za-z0-9])*', value) or len(value) > 63:
            raise ApiError('InvalidParameterValue', 400, 'The parameter %s is not a valid identifier.' % name)

    @staticmethod
    def refuse(params, names, code, message):
        for name in names:
            if params.get(name) is not None:
                raise ApiError(code, 400, message % name)

    def check_class(self, engine, name):
        if name is not None and name not in CLASSES[engine]:
            raise ApiError('InvalidParameterValue', 400, 'Invalid DB Instance class: %s' % name)

    # ---- RDS: describe

    def filtered(self, table, filters, names):
        found = [r for (region, _), r in sorted(table.items()) if region == self.region]
        for f in filters or []:
            if f['Name'] not in names:
                raise ApiError('InvalidParameterValue', 400, 'Unrecognized filter name: %s' % f['Name'])
            keys = names[f['Name']]
            found = [r for r in found if any(r.get(k) in f['Values'] for k in keys)]
        return found

    def shown(self, resource):
        result = {k: v for k, v in resource.items() if not k.startswith('_')}
        if result.get('DBInstanceStatus') in ('creating', 'failed'):
            result.pop('Endpoint', None)
        if self.options['list_tags_only']:
            result.pop('TagList', None)
        return result

    def DescribeDBInstances(self, DBInstanceIdentifier=None, Filters=None, MaxRecords=None, Marker=None):
        if DBInstanceIdentifier is not None:
            return {'DBInstances': [self.shown(self.find('instance', DBInstanceIdentifier))]}
        found = self.filtered(self.instances, Filters, {
            'db-instance-id': ['DBInstanceIdentifier', 'DBInstanceArn'], 'db-cluster-id': ['DBClusterIdentifier'],
            'engine': ['Engine'], 'dbi-resource-id': ['DbiResourceId']})
        page, marker = pages(found, MaxRecords, Marker, self.options['page_size'])
        return {'DBInstances': [self.shown(r) for r in page], 'Marker': marker}

    def DescribeDBClusters(self, DBClusterIdentifier=None, Filters=None, MaxRecords=None, Marker=None, IncludeShared=None):
        if DBClusterIdentifier is not None:
            return {'DBClusters': [self.shown(self.find('cluster', DBClusterIdentifier))]}
        found = self.filtered(self.clusters, Filters, {
            'db-cluster-id': ['DBClusterIdentifier', 'DBClusterArn'], 'engine': ['Engine'],
            'db-cluster-resource-id': ['DbClusterResourceId']})
        page, marker = pages(found, MaxRecords, Marker, self.options['page_size'])
        return {'DBClusters': [self.shown(r) for r in page], 'Marker': marker}

    def DescribeEvents(self, SourceIdentifier=None, SourceType=None, StartTime=None, EndTime=None, Duration=None,
                       EventCategories=None, Filters=None, MaxRecords=None, Marker=None):
        if SourceIdentifier is not None and SourceType is None:
            raise ApiError('InvalidParameterCombination', 400, 'SourceType is needed with SourceIdentifier')
        now = datetime.datetime.now(UTC)
        if StartTime is not None and now - StartTime > datetime.timedelta(days=14, minutes=1):
            raise ApiError('InvalidParameterValue', 400, 'StartTime is more than 14 days ago')
        if EndTime is not None and StartTime is None and Duration is None:
            raise ApiError('InvalidParameterCombination', 400, 'StartTime or Duration is needed with EndTime')
        since = StartTime or (EndTime or now) - datetime.timedelta(minutes=Duration or 60)
        found = [e for e in self.events if e['_region'] == self.region and since <= e['Date'] <= (EndTime or now)
                 and SourceIdentifier in (None, e['SourceIdentifier']) and SourceType in (None, e['SourceType'])
                 and (not EventCategories or set(EventCategories) & set(e['EventCategories']))]
        page, marker = pages(sorted(found, key=lambda e: e['Date']), MaxRecords, Marker, self.options['page_size'])
        return {'Events': [{k: v for k, v in e.items() if k[0] != '_'} for e in page], 'Marker': marker}

    def DescribeDBEngineVersions(self, Engine=None, EngineVersion=None, MaxRecords=None, Marker=None, DefaultOnly=None,
                                 IncludeAll=None, Filters=None, **more):
        found = []
        for engine, versions in (('postgres', POSTGRES), ('aurora-postgresql', AURORA)):
            if Engine not in (None, engine):
                continue
            for v in versions:
                if EngineVersion in (None, v) or v.startswith(EngineVersion + '.'):
                    found.append({'Engine': engine, 'EngineVersion': v, 'MajorEngineVersion': v.split('.')[0],
                                  'DBParameterGroupFamily': engine + v.split('.')[0], 'Status': 'available',
                                  'SupportsReadReplica': True, 'ValidUpgradeTarget': []})
        page, marker = pages(found, MaxRecords, Marker, self.options['page_size'])
        return {'DBEngineVersions': page, 'Marker': marker}

    def DescribeOrderableDBInstanceOptions(self, Engine, EngineVersion=None, DBInstanceClass=None, MaxRecords=None,
                                           Marker=None, **more):
        versions = {'postgres': POSTGRES, 'aurora-postgresql': AURORA}.get(Engine, [])
        found = [{'Engine': Engine, 'EngineVersion': v, 'DBInstanceClass': c, 'MultiAZCapable': True,
                  'ReadReplicaCapable': True, 'Vpc': True, 'SupportsStorageEncryption': c != 'db.t3.micro'}
                 for v in versions for c in CLASSES.get(Engine, [])
                 if EngineVersion in (None, v) and DBInstanceClass in (None, c)]
        page, marker = pages(found, MaxRecords, Marker, self.options['page_size'])
        return {'OrderableDBInstanceOptions': page, 'Marker': marker}

    def by_arn(self, arn):
        match = re.fullmatch(r'arn:aws:rds:([a-z0-9-]+):(\d+):(db|cluster):([A-Za-z0-9-]+)', arn)
        if match is None or match.group(1) != self.region or match.group(2) != ACCOUNT:
            raise ApiError('InvalidParameterValue', 400, 'Invalid resource name: %s' % arn)
        return self.find({'db': 'instance', 'cluster': 'cluster'}[match.group(3)], match.group(4))

    def ListTagsForResource(self, ResourceName, Filters=None):
        return {'TagList': self.by_arn(ResourceName)['TagList']}

    def AddTagsToResource(self, ResourceName, Tags):
        self.check_tags(Tags)
        resource = self.by_arn(ResourceName)
        new = {t['Key'] for t in Tags}
        resource['TagList'] = [t for t in resource['TagList'] if t['Key'] not in new] + Tags
        return {}

    @staticmethod
    def check_tags(tags):
        for tag in tags or []:
            if not tag.get('Key') or len(tag['Key']) > 128 or len(tag.get('Value', '')) > 256 or tag['Key'].startswith('aws:') \
                    or re.search(r'[^\w .:/=+@-]', tag['Key'] + tag.get('Value', '')):
                raise ApiError('InvalidParameterValue', 400, 'The tag %s is not valid' % tag.get('Key'))

    # ---- RDS: create

    def source_of(self, identifier):
        """The source of a read replica, by name or by the ARN of any region."""
        match = re.fullmatch(r'arn:aws:rds:([a-z0-9-]+):(\d+):db:([A-Za-z0-9-]+)', identifier)
        if match is None:
            if identifier.startswith('arn:'):
                raise ApiError('InvalidParameterValue', 400, 'Invalid ARN: %s' % identifier)
            return self.region, self.find('instance', identifier)
        if match.group(2) != ACCOUNT:
            raise ApiError('DBInstanceNotFound', 404, 'DBInstance %s not found.' % identifier)
        region, here = match.group(1), self.region
        try:
            self.region = region
            return region, self.find('instance', match.group(3))
        finally:
            self.region = here

    def check_source(self, source):
        if source['DBInstanceStatus'] != 'available':
            raise ApiError('InvalidDBInstanceState', 400, 'DB instance is not in the available state.')
        if source['BackupRetentionPeriod'] == 0:
            raise ApiError('InvalidDBInstanceState', 400,
                           'Automated backups are not enabled for this database instance. To enable automated backups, '
                           'use ModifyDBInstance to set the backup retention period to a non-zero value.')

    def CreateDBInstanceReadReplica(self, DBInstanceIdentifier, SourceDBInstanceIdentifier=None, Tags=None, **more):
        id = DBInstanceIdentifier.lower()
        self.check_identifier('DBInstanceIdentifier', id)
        self.check_tags(Tags)
        if SourceDBInstanceIdentifier is None:
            raise ApiError('MissingParameter', 400, 'SourceDBInstanceIdentifier is required')
        region, source = self.source_of(SourceDBInstanceIdentifier)
        if (self.region, id) in self.instances:
            raise ApiError('DBInstanceAlreadyExists', 400, 'DB instance already exists')
        self.check_source(source)
        if source['Engine'] not in ('postgres', 'mysql'):
            raise ApiError('InvalidParameterCombination', 400, 'not an RDS instance')
        self.check_class(source['Engine'], more.get('DBInstanceClass'))
        if region == self.region and more.get('DBParameterGroupName') is not None:
            raise ApiError('InvalidParameterCombination', 400,
                           'A parameter group cannot be specified during Read Replica creation for this DB engine.')
        if region != self.region and source['StorageEncrypted'] and not more.get('KmsKeyId'):
            raise ApiError('InvalidParameterValue', 400, 'KmsKeyId is needed for an encrypted source of another region')
        if len(source['ReadReplicaDBInstanceIdentifiers']) >= 15:
            raise ApiError('InvalidDBInstanceState', 400, 'too many read replicas')
        name = source['DBInstanceIdentifier'] if region == self.region else source['DBInstanceArn']
        replica = self.instance(
            id, engine=source['Engine'], EngineVersion=source['EngineVersion'], TagList=Tags or [],
            DBInstanceStatus=self.options['create_status'], ReadReplicaSourceDBInstanceIdentifier=name,
            BackupRetentionPeriod=0, StorageEncrypted=source['StorageEncrypted'],
            AllocatedStorage=source['AllocatedStorage'], DeletionProtection=more.get('DeletionProtection', False),
            DBInstanceClass=more.get('DBInstanceClass') or source['DBInstanceClass'],
            **{k: more[k] for k in ('KmsKeyId', 'AvailabilityZone', 'MultiAZ') if k in more})
        replica['_params'] = more
        source['ReadReplicaDBInstanceIdentifiers'].append(id if region == self.region else replica['DBInstanceArn'])
        self.finish_instance(replica)
        return {'DBInstance': self.shown(replica)}

    def finish_instance(self, instance):
        id = instance['DBInstanceIdentifier']

        def backing_up():
            instance['DBInstanceStatus'] = 'backing-up'

        def done():
            fatal = self.options['fatal']
            instance['DBInstanceStatus'] = fatal or 'available'
            if fatal:
                instance['StatusInfos'] = [{'StatusType': 'read replication', 'Normal': False, 'Status': 'error',
                                            'Message': 'replication stopped: injected'}]
                self.event('db-instance', id, 'DB instance put into %s' % fatal, categories=['failure'])
                return
            if instance.get('ReadReplicaSourceDBInstanceIdentifier'):
                instance['StatusInfos'] = [{'StatusType': 'read replication', 'Normal': True, 'Status': 'replicating'}]
            self.event('db-instance', id, 'DB instance created', categories=['creation'])
            if instance.get('DBClusterIdentifier'):
                self.find('cluster', instance['DBClusterIdentifier']).pop('PercentProgress', None)

        self.later(instance, self.options['create_seconds'] / 2, backing_up)
        self.later(instance, self.options['create_seconds'], done)

    def CreateDBCluster(self, DBClusterIdentifier, Engine, ReplicationSourceIdentifier=None, Tags=None, **more):
        id = DBClusterIdentifier.lower()
        self.check_identifier('DBClusterIdentifier', id)
        self.check_tags(Tags)
        if Engine != 'aurora-postgresql' or ReplicationSourceIdentifier is None:
            raise ApiError('InvalidParameterCombination', 400, 'the fake makes Aurora read replicas only')
        self.refuse(more, ['MasterUsername'], 'InvalidParameterCombination',
                    'Cannot specify user name for instance cluster replication cluster (%s)')
        self.refuse(more, ['MasterUserPassword', 'DatabaseName'], 'InvalidParameterCombination', 'Cannot specify %s')
        self.refuse(more, ['ManageMasterUserPassword'], 'InvalidParameterValue', "%s isn't supported for read replica")
        self.refuse(more, ['AllocatedStorage', 'Iops', 'DBClusterInstanceClass', 'PubliclyAccessible'],
                    'InvalidParameterCombination', '%s is for Multi-AZ DB clusters')
        if not ReplicationSourceIdentifier.startswith('arn:'):
            raise ApiError('InvalidParameterValue', 400, 'ReplicationSourceIdentifier must be an ARN')
        region, source = self.source_of(ReplicationSourceIdentifier)
        if region != self.region:
            raise ApiError('InvalidParameterCombination', 400, 'the source must be in the same region')
        if (self.region, id) in self.clusters:
            raise ApiError('DBClusterAlreadyExistsFault', 400, 'DB Cluster already exists')
        self.check_source(source)
        if source['Engine'] != 'postgres':
            raise ApiError('InvalidParameterCombination', 400, 'The source engine is not PostgreSQL')
        if source['ReadReplicaDBClusterIdentifiers'] or (
                self.options['reject_any_replica'] and source['ReadReplicaDBInstanceIdentifiers']):
            raise ApiError('InvalidDBInstanceState', 400, 'The source has a read replica already')
        wanted = more.get('EngineVersion', source['EngineVersion'])
        if wanted not in AURORA or version(wanted)[0] != version(source['EngineVersion'])[0] or \
                version(wanted) < version(source['EngineVersion']):
            raise ApiError('InvalidParameterCombination', 400, 'Cannot find version %s for aurora-postgresql' % wanted)
        if source['StorageEncrypted'] and not more.get('StorageEncrypted'):
            raise ApiError('InvalidParameterCombination', 400, 'StorageEncrypted must be true for an encrypted source')
        cluster = self.cluster(
            id, Status=self.options['create_status'], EngineVersion=wanted, TagList=Tags or [],
            ReplicationSourceIdentifier=source['DBInstanceArn'], StorageEncrypted=more.get('StorageEncrypted', False),
            Port=more.get('Port', 5432), PercentProgress='10', DeletionProtection=more.get('DeletionProtection', False))
        cluster['_params'] = more
        source['ReadReplicaDBClusterIdentifiers'].append(id)

        def halfway():
            cluster['PercentProgress'] = '60'

        def done():
            cluster['Status'] = 'available'
            cluster['PercentProgress'] = '100'
            self.event('db-cluster', id, 'DB cluster created', categories=['creation'])

        self.later(cluster, self.options['cluster_seconds'] / 2, halfway)
        self.later(cluster, self.options['cluster_seconds'], done)
        return {'DBCluster': self.shown(cluster)}

    def CreateDBInstance(self, DBInstanceIdentifier, DBInstanceClass, Engine, DBClusterIdentifier=None, Tags=None, **more):
        id = DBInstanceIdentifier.lower()
        self.check_identifier('DBInstanceIdentifier', id)
        self.check_tags(Tags)
        if DBClusterIdentifier is None or Engine != 'aurora-postgresql':
            raise ApiError('InvalidParameterCombination', 400, 'the fake makes instances of Aurora clusters only')
        self.refuse(more, ['AllocatedStorage', 'MasterUsername', 'MasterUserPassword', 'DBName', 'StorageEncrypted',
                           'KmsKeyId', 'BackupRetentionPeriod', 'DeletionProtection', 'VpcSecurityGroupIds', 'Port', 'Iops',
                           'EnableIAMDatabaseAuthentication', 'MultiAZ', 'ManageMasterUserPassword'],
                    'InvalidParameterCombination', '%s is a property of the cluster')
        cluster = self.find('cluster', DBClusterIdentifier)
        if (self.region, id) in self.instances:
            raise ApiError('DBInstanceAlreadyExists', 400, 'DB instance already exists')
        self.check_class(Engine, DBInstanceClass)
        if cluster['Status'] != 'available':
            raise ApiError('InvalidDBClusterStateFault', 400, 'DB cluster is not in the available state')
        if more.get('EngineVersion') not in (None, cluster['EngineVersion']):
            raise ApiError('InvalidParameterCombination', 400, 'the version is not that of the cluster')
        instance = self.instance(
            id, engine=Engine, EngineVersion=cluster['EngineVersion'], DBInstanceClass=DBInstanceClass, TagList=Tags or [],
            DBClusterIdentifier=cluster['DBClusterIdentifier'], DBInstanceStatus=self.options['create_status'])
        instance['_params'] = more
        cluster['DBClusterMembers'].append({'DBInstanceIdentifier': id, 'IsClusterWriter': True, 'PromotionTier': 1,
                                            'DBClusterParameterGroupStatus': 'in-sync'})
        self.finish_instance(instance)
        return {'DBInstance': self.shown(instance)}

    # ---- RDS: promote

    def PromoteReadReplica(self, DBInstanceIdentifier, BackupRetentionPeriod=None, PreferredBackupWindow=None):
        replica = self.find('instance', DBInstanceIdentifier)
        if not replica.get('ReadReplicaSourceDBInstanceIdentifier') or replica.get('DBClusterIdentifier'):
            raise ApiError('InvalidDBInstanceState', 400, 'DB Instance is not a read replica')
        if replica['DBInstanceStatus'] != 'available' or replica.get('_promoting'):
            raise ApiError('InvalidDBInstanceState', 400, 'DB Instance is not in the available state')
        id, wait, notice = replica['DBInstanceIdentifier'], self.options['promote_seconds'], self.options['promote_notice']
        replica['_promoting'] = True
        self.later(replica, notice, lambda: replica.update(DBInstanceStatus='modifying'))
        self.later(replica, (notice + wait) / 2, lambda: replica.update(DBInstanceStatus='rebooting'))

        def done():
            replica.pop('_promoting')
            if self.options['promote_fails']:
                replica['DBInstanceStatus'] = self.options['promote_fails']
                return
            replica['DBInstanceStatus'] = 'available'
            if not self.options['keep_link']:
                self.unlink(replica.pop('ReadReplicaSourceDBInstanceIdentifier'), 'ReadReplicaDBInstanceIdentifiers',
                            (id, replica['DBInstanceArn']))
            replica['StatusInfos'] = []
            replica['BackupRetentionPeriod'] = BackupRetentionPeriod or 1
            self.event('db-instance', id, 'Promoted Read Replica instance to stand-alone database instance')

        self.later(replica, wait, done)
        return {'DBInstance': self.shown(replica)}

    def unlink(self, identifier, member, names):
        try:
            _, source = self.source_of(identifier)
        except ApiError:
            return
        source[member] = [n for n in source[member] if n not in names]

    def PromoteReadReplicaDBCluster(self, DBClusterIdentifier):
        cluster = self.find('cluster', DBClusterIdentifier)
        members = [self.find('instance', m['DBInstanceIdentifier']) for m in cluster['DBClusterMembers']]
        if not cluster.get('ReplicationSourceIdentifier'):
            raise ApiError('InvalidDBClusterStateFault', 400, 'DB Cluster is not a read replica')
        if cluster['Status'] != 'available' or cluster.get('_promoting') or not members or \
                any(m['DBInstanceStatus'] != 'available' for m in members):
            raise ApiError('InvalidDBClusterStateFault', 400, 'DB Cluster is not in the available state')
        id, wait, notice = cluster['DBClusterIdentifier'], self.options['promote_seconds'], self.options['promote_notice']
        cluster['_promoting'] = True
        self.later(cluster, notice, lambda: cluster.update(Status='promoting'))

        def done():
            cluster.pop('_promoting')
            if self.options['promote_fails']:
                cluster['Status'] = self.options['promote_fails']
                return
            cluster['Status'] = 'available'
            if not self.options['keep_link']:
                self.unlink(cluster.pop('ReplicationSourceIdentifier'), 'ReadReplicaDBClusterIdentifiers',
                            (id, cluster['DBClusterArn']))
            if self.options['promote_event']:
                self.event('db-cluster', id, self.options['event_wording'])

        self.later(cluster, wait, done)
        return {'DBCluster': self.shown(cluster)}

    # ---- RDS: delete

    def DeleteDBInstance(self, DBInstanceIdentifier, SkipFinalSnapshot=False, FinalDBSnapshotIdentifier=None,
                         DeleteAutomatedBackups=None):
        instance = self.find('instance', DBInstanceIdentifier)
        id, cluster = instance['DBInstanceIdentifier'], None
        if instance['DeletionProtection']:
            raise ApiError('InvalidParameterCombination', 400, 'Cannot delete protected DB Instance')
        if instance['DBInstanceStatus'] == 'deleting':
            raise ApiError('InvalidDBInstanceState', 400, 'Instance %s is already being deleted.' % id)
        if instance['DBInstanceStatus'] in ('creating', 'backing-up') and not self.options['delete_creating']:
            raise ApiError('InvalidDBInstanceState', 400, 'Instance %s is currently creating.' % id)
        if instance.get('_promoting'):
            raise ApiError('InvalidDBInstanceState', 400, 'Instance %s is being promoted.' % id)
        if instance.get('DBClusterIdentifier'):
            cluster = self.find('cluster', instance['DBClusterIdentifier'])
            if cluster.get('ReplicationSourceIdentifier') and len(cluster['DBClusterMembers']) == 1 and \
                    self.options['last_instance_rule'] and instance['DBInstanceStatus'] not in FATAL + ('creating', 'backing-up'):
                raise ApiError('InvalidDBClusterStateFault', 400,
                               'Cannot delete the last instance of the read replica cluster. Promote it first.')
            if FinalDBSnapshotIdentifier:
                raise ApiError('InvalidParameterCombination', 400, 'instances of a cluster have no final snapshot')
        elif instance.get('ReadReplicaSourceDBInstanceIdentifier'):
            if not SkipFinalSnapshot or FinalDBSnapshotIdentifier:
                raise ApiError('InvalidParameterCombination', 400,
                               'FinalDBSnapshotIdentifier cannot be specified when deleting a replica instance')
        elif SkipFinalSnapshot == bool(FinalDBSnapshotIdentifier):
            raise ApiError('InvalidParameterCombination', 400, 'FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot')
        for other in self.clusters.values():
            if other.get('ReplicationSourceIdentifier') == instance['DBInstanceArn']:
                raise ApiError('InvalidDBInstanceState', 400, 'the instance has an Aurora read replica')
        instance['DBInstanceStatus'] = 'deleting'
        instance['_snapshot'] = FinalDBSnapshotIdentifier
        instance['_plan'] = []
        region = self.region

        def gone():
            self.instances.pop((region, id), None)
            if cluster:
                cluster['DBClusterMembers'] = [m for m in cluster['DBClusterMembers'] if m['DBInstanceIdentifier'] != id]
            source = instance.get('ReadReplicaSourceDBInstanceIdentifier')
            if source:
                self.unlink(source, 'ReadReplicaDBInstanceIdentifiers', (id, instance['DBInstanceArn']))
            self.event('db-instance', id, 'DB instance deleted', categories=['deletion'])

        self.later(instance, self.options['delete_seconds'], gone)
        return {'DBInstance': self.shown(instance)}

    def DeleteDBCluster(self, DBClusterIdentifier, SkipFinalSnapshot=False, FinalDBSnapshotIdentifier=None,
                        DeleteAutomatedBackups=None):
        cluster = self.find('cluster', DBClusterIdentifier)
        id = cluster['DBClusterIdentifier']
        if cluster['DeletionProtection']:
            raise ApiError('InvalidParameterCombination', 400, 'Cannot delete protected Cluster')
        if cluster['Status'] == 'deleting' or cluster.get('_promoting'):
            raise ApiError('InvalidDBClusterStateFault', 400, 'DB cluster is not in the available state')
        if cluster['Status'] == 'creating' and not self.options['delete_creating']:
            raise ApiError('InvalidDBClusterStateFault', 400, 'DB cluster is currently creating')
        if SkipFinalSnapshot == bool(FinalDBSnapshotIdentifier):
            raise ApiError('InvalidParameterCombination', 400, 'FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot')
        members = [self.instances.get((self.region, m['DBInstanceIdentifier'])) for m in cluster['DBClusterMembers']]
        if any(m and m['DBInstanceStatus'] != 'deleting' for m in members):
            raise ApiError('InvalidDBClusterStateFault', 400,
                           'Cluster cannot be deleted, it still contains DB instances in non-deleting state.')
        cluster['Status'] = 'deleting'
        cluster['_snapshot'] = FinalDBSnapshotIdentifier
        cluster['_plan'] = []
        region = self.region

        def gone():
            self.clusters.pop((region, id), None)
            if cluster.get('ReplicationSourceIdentifier'):
                self.unlink(cluster['ReplicationSourceIdentifier'], 'ReadReplicaDBClusterIdentifiers',
                            (id, cluster['DBClusterArn']))
            self.event('db-cluster', id, 'DB cluster deleted', categories=['deletion'])

        self.later(cluster, self.options['delete_seconds'] * 1.5, gone)
        return {'DBCluster': self.shown(cluster)}

    # ---- CloudWatch

    def points(self, metric, start, end):
        """(moment, value), latest first; CloudWatch keeps whole seconds here, not minutes."""
        name = metric['MetricName']
        dimensions = {d['Name']: d['Value'] for d in metric.get('Dimensions', [])}
        if metric.get('Namespace') != 'AWS/RDS' or set(dimensions) != {'DBInstanceIdentifier'}:
            return []
        id = dimensions['DBInstanceIdentifier']
        resource = self.instances.get((self.region, id))
        how = self.metrics.get((name, id))
        if resource is None:
            return []
        if how is None:
            cluster = self.clusters.get((self.region, resource.get('DBClusterIdentifier', '')), {})
            value = {
                'FreeStorageSpace': resource['AllocatedStorage'] * GIB * 0.6 if not cluster else None,
                'OldestReplicationSlotLag': 3.5 * 1024 * 1024 if resource['ReadReplicaDBInstanceIdentifiers'] or
                resource['ReadReplicaDBClusterIdentifiers'] else None,
                'TransactionLogsDiskUsage': 128.0 * 1024 * 1024 if not cluster else None,
                'ReplicaLag': self.options['lag'] if resource.get('ReadReplicaSourceDBInstanceIdentifier') else None,
                'RDSToAuroraPostgreSQLReplicaLag': self.options['lag'] if cluster.get('ReplicationSourceIdentifier') else None,
                'WriteThroughput': 1048576.0, 'TransactionLogsGeneration': 65536.0,
            }.get(name)
            how = {'value': value}
        if how.get('value') is None:
            return []
        newest = datetime.datetime.now(UTC).replace(microsecond=0) + datetime.timedelta(seconds=self.skew) - datetime.timedelta(seconds=how.get('age', 0))
        count = how.get('count', 5)
        every = how.get('every', self.options['metric_every'])
        made = [(newest - datetime.timedelta(seconds=every * i), how['value']) for i in range(count)]
        return [(t, v) for t, v in made if start <= t < end]

    def GetMetricData(self, MetricDataQueries, StartTime, EndTime, NextToken=None, ScanBy='TimestampDescending',
                      MaxDatapoints=None, LabelOptions=None):
        if StartTime >= EndTime:
            raise ApiError('ValidationError', 400, 'The parameter StartTime must be less than the parameter EndTime.')
        if not 1 <= len(MetricDataQueries) <= 500:
            raise ApiError('ValidationError', 400, 'The collection MetricDataQueries must not have a size greater than 500.')
        ids = [q['Id'] for q in MetricDataQueries]
        if len(set(ids)) != len(ids) or not all(re.fullmatch(r'[a-z][A-Za-z0-9_]*', i) for i in ids):
            raise ApiError('ValidationError', 400, 'The values for parameter id in MetricDataQueries are not unique or not valid')
        results = []
        for q in MetricDataQueries:
            stat = q.get('MetricStat')
            if stat is None or q.get('Expression'):
                raise ApiError('ValidationError', 400, 'the fake computes no expressions')
            if stat['Stat'] not in ('Average', 'Maximum', 'Minimum', 'Sum', 'SampleCount') or stat['Period'] % 60:
                raise ApiError('ValidationError', 400, 'bad Stat or Period')
            found = self.points(stat['Metric'], StartTime, EndTime)
            if stat.get('Unit') and stat['Unit'] not in ('Bytes', 'Seconds'):
                found = []
            if ScanBy == 'TimestampAscending':
                found.reverse()
            results.append({'Id': q['Id'], 'Label': stat['Metric']['MetricName'], 'StatusCode': 'Complete',
                            'Timestamps': [t for t, _ in found], 'Values': [v for _, v in found]})
        size = self.options['metric_page']
        start = 0
        if NextToken is not None:
            if not re.fullmatch(r'next-\d+', NextToken):
                raise ApiError('InvalidNextToken', 400, 'bad token')
            start = int(NextToken[5:])
        answer = {'MetricDataResults': results[start:start + size], 'Messages': []}
        if start + size < len(results):
            answer['NextToken'] = 'next-%d' % (start + size)
        return answer

    # ---- STS

    def temporary(self, role):
        known = self.roles.get(role)
        if known is None:
            raise ApiError('AccessDenied', 403, 'not authorized to perform: sts:AssumeRole on resource: %s' % role)
        number = next(self.numbers)
        key, secret, token = 'ASIATEMP%d' % number, 'tempSecret%d' % number, 'temp//Token+%d=' % number
        expires = datetime.datetime.now(UTC) + datetime.timedelta(seconds=known.get('seconds', 3600))
        self.add_credentials(key, secret, token=token, expires=expires.timestamp(), arn=role)
        return known, {
            'Credentials': {'AccessKeyId': key, 'SecretAccessKey': secret, 'SessionToken': token, 'Expiration': expires},
            'AssumedRoleUser': {'AssumedRoleId': 'AROA:x', 'Arn': role}}

    def AssumeRole(self, RoleArn, RoleSessionName, ExternalId=None, **more):
        known, answer = self.temporary(RoleArn)
        if known.get('external_id') != ExternalId:
            raise ApiError('AccessDenied', 403, 'not authorized to perform: sts:AssumeRole')
        return answer

    def AssumeRoleWithWebIdentity(self, RoleArn, RoleSessionName, WebIdentityToken, **more):
        known, answer = self.temporary(RoleArn)
        if known.get('web_token') != WebIdentityToken:
            raise ApiError('InvalidIdentityToken', 400, 'The token is not valid')
        return answer

    def GetCallerIdentity(self):
        return {'UserId': 'AIDA', 'Account': ACCOUNT, 'Arn': self.caller.get('arn', '')}
