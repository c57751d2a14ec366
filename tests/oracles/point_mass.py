"""A mass of 2 kg that a motor with a gear of 3 pushes along a line, in steps of .02 s of semi-implicit Euler."""

MJCF = """
<mujoco>
  <option timestep="0.02" gravity="0 0 0" integrator="Euler"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom type="sphere" size=".1" mass="2"/></body>
  </worldbody>
  <actuator><motor joint="x" gear="3"/></actuator>
</mujoco>
"""
