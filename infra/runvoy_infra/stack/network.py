"""Where tasks run: a VPC of public subnets without NAT, or the subnets that were given. Nothing can connect to a task."""

from __future__ import annotations

import aws_cdk
from aws_cdk import Fn, Stack
from aws_cdk import aws_ec2 as ec2

from runvoy_infra.stack.acknowledge import Acknowledge
from runvoy_infra.stack.parameters import Parameters

SUBNETS = 2


class Network:
    """The subnets and the security group of tasks, as RunTask takes them."""

    def __init__(self, stack: Stack, parameters: Parameters, acknowledge: Acknowledge) -> None:
        self._stack = stack
        self._parameters = parameters
        self._acknowledge = acknowledge
        vpc = ec2.CfnVPC(
            stack,
            "Vpc",
            cidr_block=parameters.vpc_cidr.value_as_string,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags=self._name("tasks"),
        )
        acknowledge(
            vpc,
            "AwsSolutions-VPC7",
            "Flow logs cost more than the tasks they would tell of, and who ran what is in the audit. Give VpcId and "
            "SubnetIds of a VPC with flow logs where they are required.",
        )
        self._only_if_made(vpc)
        route_table = self._way_out(vpc)
        subnets = [self._subnet(vpc, route_table, number) for number in range(SUBNETS)]
        made = Fn.join(",", [subnet.ref for subnet in subnets])
        self.subnets = aws_cdk.Fn.condition_if(
            parameters.makes_vpc.logical_id, made, parameters.subnet_ids.value_as_string
        ).to_string()
        self.security_group = self._egress_only(vpc).attr_group_id

    def _way_out(self, vpc: ec2.CfnVPC) -> ec2.CfnRouteTable:
        gateway = ec2.CfnInternetGateway(self._stack, "InternetGateway", tags=self._name("tasks"))
        attachment = ec2.CfnVPCGatewayAttachment(
            self._stack, "InternetGatewayAttachment", vpc_id=vpc.ref, internet_gateway_id=gateway.ref
        )
        table = ec2.CfnRouteTable(self._stack, "RouteTable", vpc_id=vpc.ref, tags=self._name("tasks"))
        route = ec2.CfnRoute(
            self._stack,
            "DefaultRoute",
            route_table_id=table.ref,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.ref,
        )
        route.add_resource_dependency(attachment)
        for resource in (gateway, attachment, table, route):
            self._only_if_made(resource)
        return table

    def _subnet(self, vpc: ec2.CfnVPC, route_table: ec2.CfnRouteTable, number: int) -> ec2.CfnSubnet:
        address_bits = "11"  # of the /20 that is the default, and the smallest that is taken: two halves
        subnet = ec2.CfnSubnet(
            self._stack,
            f"Subnet{number + 1}",
            vpc_id=vpc.ref,
            cidr_block=Fn.select(number, Fn.cidr(self._parameters.vpc_cidr.value_as_string, SUBNETS, address_bits)),
            availability_zone=Fn.select(number, Fn.get_azs()),
            map_public_ip_on_launch=False,  # each task says whether it wants one
            tags=self._name(f"tasks {number + 1}"),
        )
        association = ec2.CfnSubnetRouteTableAssociation(
            self._stack, f"Subnet{number + 1}Routes", subnet_id=subnet.ref, route_table_id=route_table.ref
        )
        self._only_if_made(subnet)
        self._only_if_made(association)
        return subnet

    def _egress_only(self, vpc: ec2.CfnVPC) -> ec2.CfnSecurityGroup:
        vpc_id = Fn.condition_if(
            self._parameters.makes_vpc.logical_id, vpc.ref, self._parameters.vpc_id.value_as_string
        )
        group = ec2.CfnSecurityGroup(
            self._stack,
            "TaskSecurityGroup",
            group_description="runvoy tasks: out to anywhere, in from nowhere",
            vpc_id=vpc_id.to_string(),
            security_group_egress=[
                ec2.CfnSecurityGroup.EgressProperty(
                    ip_protocol="-1", cidr_ip="0.0.0.0/0", description="commands reach what they need"
                )
            ],
        )
        # Linters see the empty default of VpcId here; the condition sees to it that it is never used.
        self._acknowledge(
            group, "CloudFormation-Validate::E1151", "The empty default of VpcId is the branch that is not taken."
        )
        group.cfn_options.metadata = {"cfn-lint": {"config": {"ignore_checks": ["E1151"]}}}
        return group

    def _only_if_made(self, resource: aws_cdk.CfnResource) -> None:
        resource.cfn_options.condition = self._parameters.makes_vpc

    def _name(self, what: str) -> list[aws_cdk.CfnTag]:
        return [aws_cdk.CfnTag(key="Name", value=f"{self._stack.stack_name} {what}")]
